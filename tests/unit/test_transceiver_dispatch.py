# SPDX-License-Identifier: Apache-2.0
"""Which session a datagram is for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from transceiver.dispatch import ADDRESSES_PER_SESSION, Dispatch


def address(number: int) -> tuple[str, int]:
    return ("192.0.2.1", 1000 + number)


def test_an_address_belongs_to_who_proved_itself_last() -> None:
    table: Dispatch[str] = Dispatch()
    assert table.by_address(address(1)) is None
    assert table.learn(address(1), "a") is None
    assert table.learn(address(1), "a") is None
    assert table.learn(address(1), "b") == "a"
    assert table.by_address(address(1)) == "b"


def test_a_session_has_several_ufrags() -> None:
    table: Dispatch[str] = Dispatch()
    table.add("old", "a")
    table.add("new", "a")
    table.remove("old")
    assert (table.by_ufrag("old"), table.by_ufrag("new")) == (None, "a")


def test_the_address_unproven_for_the_longest_is_forgotten() -> None:
    table: Dispatch[str] = Dispatch()
    for number in range(ADDRESSES_PER_SESSION):
        table.learn(address(number), "a")
    table.learn(address(0), "a")
    table.learn(address(99), "a")
    assert table.by_address(address(0)) == "a"
    assert table.by_address(address(1)) is None
    assert len(table) == ADDRESSES_PER_SESSION


def test_the_address_in_use_is_kept() -> None:
    table: Dispatch[str] = Dispatch()
    for number in range(3 * ADDRESSES_PER_SESSION):
        table.learn(address(number), "a", keep=address(0))
    assert table.by_address(address(0)) == "a"
    assert len(table) == ADDRESSES_PER_SESSION


def test_a_session_that_is_over_leaves_nothing() -> None:
    table: Dispatch[str] = Dispatch()
    table.learn(address(1), "a")
    table.learn(address(2), "b")
    table.forget("a")
    table.forget("never seen")
    assert len(table) == 1
    assert table.by_address(address(2)) == "b"


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abc"), st.booleans())))
def test_memory_is_bounded_and_the_last_proof_holds(steps: list[tuple[int, str, bool]]) -> None:
    table: Dispatch[str] = Dispatch()
    for number, session, over in steps:
        if over:
            table.forget(session)
        else:
            table.learn(address(number), session)
            assert table.by_address(address(number)) == session
        assert len(table) <= 3 * ADDRESSES_PER_SESSION
