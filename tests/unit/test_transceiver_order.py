# SPDX-License-Identifier: Apache-2.0
"""Packets put in order: nothing waits that need not, and nothing is said twice."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transceiver.order import PATIENCE, RESTART, Orderly


def packet(number: int) -> SimpleNamespace:
    return SimpleNamespace(
        sequence_number=number & 0xFFFF, timestamp=number * 960 & 0xFFFFFFFF, _data=number.to_bytes(8, "big")
    )


def leaving(order: Orderly, number: int) -> list[int]:
    """The packets that leave when that one comes, by number."""
    _, frames = order.add(packet(number))
    return [int.from_bytes(data, "big") for _, data in frames.packets()] if frames else []


@pytest.mark.parametrize("first", [0, 7, 65533])
def test_what_comes_in_order_leaves_at_once(first: int) -> None:
    order = Orderly()
    assert [leaving(order, number) for number in range(first, first + 9)] == [
        [number] for number in range(first, first + 9)
    ]


def test_a_packet_waits_for_the_one_before_it() -> None:
    order = Orderly()
    assert [leaving(order, number) for number in (1, 3, 4, 2, 5)] == [[1], [], [], [2, 3, 4], [5]]


def test_a_lost_packet_is_waited_for_and_then_no_longer() -> None:
    order = Orderly()
    assert [leaving(order, number) for number in (1, 3, 4, 5, 6, 2)] == [[1], [], [], [3, 4, 5], [6], []]
    assert PATIENCE == 3


def test_several_lost_ones_cost_no_more() -> None:
    order = Orderly()
    assert [leaving(order, number) for number in (1, 9, 10, 11, 12)] == [[1], [], [], [9, 10, 11], [12]]


def test_a_new_sequence_begins_anew() -> None:
    order = Orderly()
    assert [leaving(order, number) for number in (1, 5000, 5001)] == [[1], [5000], [5001]]
    assert leaving(order, 5001 - RESTART - 1) == [5001 - RESTART - 1]


def test_timestamps_are_mapped_with_the_first() -> None:
    order = Orderly()
    for number in (1, 3, 4):
        order.add(packet(number))
    _, frames = order.add(packet(2))
    assert frames is not None
    assert frames.timestamp == 2 * 960
    frames.timestamp = 0  # as aiortc does, to begin at 0
    assert [at for at, _ in frames.packets()] == [0, 960, 1920]


@given(st.permutations(range(30)), st.sets(st.integers(0, 29)), st.integers(0, 65535))
def test_every_packet_leaves_once_at_most_and_in_order(
    arrival: list[int], lost: set[int], first: int
) -> None:
    order = Orderly()
    left = [one for number in arrival if number not in lost for one in leaving(order, first + number)]
    assert left == sorted(set(left))
    assert len(order._held) < PATIENCE
