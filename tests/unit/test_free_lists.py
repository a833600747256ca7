# SPDX-License-Identifier: Apache-2.0
"""The rings of free numbers, against two queues."""

from __future__ import annotations

from collections import deque

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from control import abi
from control.free_lists import FreeLists

COUNTS = {4: 20, 6: 7}
PLACES = sum(COUNTS.values()) + len(COUNTS)


def rings() -> tuple[FreeLists, np.ndarray]:
    lists = np.zeros(2, abi.FREE_LIST)
    made = FreeLists(lists, np.zeros(-(-PLACES // 16), abi.FREE_LINE))
    made.lay_out(COUNTS)
    return made, lists


def take(made: FreeLists, lists: np.ndarray, family: int) -> int | None:
    """As the program does."""
    row = (4, 6).index(family)
    waiting = made.waiting(family)
    if not len(waiting):
        return None
    lists["head"][row] = (lists["head"][row] + 1) % lists["size"][row]
    return int(waiting[0])


@given(st.lists(st.tuples(st.sampled_from([4, 6]), st.integers(-20, 20)), max_size=60))
def test_numbers_come_out_as_they_went_in(steps: list[tuple[int, int]]) -> None:
    """More steps than places: both go round."""
    made, lists = rings()
    model: dict[int, deque[int]] = {4: deque(), 6: deque()}
    next_number = 0
    for family, count in steps:
        if count > 0:
            count = min(count, COUNTS[family] - len(model[family]))
            numbers = np.arange(next_number, next_number + count, dtype=np.uint32)
            next_number += count
            made.give(family, numbers)
            model[family].extend(numbers.tolist())
        for _ in range(-count):
            wanted = model[family].popleft() if model[family] else None
            assert take(made, lists, family) == wanted
        for one in (4, 6):
            assert made.waiting(one).tolist() == list(model[one])
            assert made.count(one) == len(model[one])


def test_a_full_ring_is_not_empty() -> None:
    made, _ = rings()
    made.give(6, np.arange(7, dtype=np.uint32))
    assert made.count(6) == 7
    assert made.waiting(6).tolist() == list(range(7))
    assert made.count(4) == 0
