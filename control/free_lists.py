# SPDX-License-Identifier: Apache-2.0
"""The rings of free record numbers, one for each address family: bpf/free_list.h takes, this gives back.

docs/flow-table.md says who moves what. Numbers are written before the tail moves, by stores that the
processor keeps in order (x86 does; see there for others).
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from control.errors import DatapathError
from control.layout import FAMILIES

Numbers = NDArray[np.uint32]

# A program that had taken a number just before is through with its packet by then.
_SETTLE_SECONDS = 0.01
_TRIES = 100


def take_all(lists: NDArray[np.void]) -> None:
    """Empties rings under a program that takes from them: nothing is bound from now on, and when this
    returns, no CPU has a number in hand whose record is still FREE.

    The tail is the daemon's: back to the head, and the ring is empty. The program may move the head just
    then. That leaves it a ring that looks full, of numbers that were free or fail to be taken; so this
    looks again.

    Raises:
        DatapathError: the program took numbers faster than they could be taken from it; the tails are as
            before.
    """
    tails = lists["tail"].copy()
    for _ in range(_TRIES):
        lists["tail"] = lists["head"]
        time.sleep(_SETTLE_SECONDS)
        if (lists["tail"] == lists["head"]).all():
            return
    lists["tail"] = tails
    raise DatapathError("the program binds flows too fast to take free ports from it: try again")


class FreeLists:
    """Both rings. All of it is read from the maps, nothing is remembered."""

    def __init__(self, lists: NDArray[np.void], lines: NDArray[np.void]) -> None:
        """lists: free_lists_v1; lines: free_flows_v2."""
        self._lists = lists
        # Not [...]["numbers"].ravel(): that would be a copy.
        self._places: Numbers = lines.view(np.uint32)

    def lay_out(self, counts: dict[int, int]) -> None:
        """Divides new maps among the families, by how many numbers each has; the rings are empty."""
        first = 0
        for row, family in enumerate(FAMILIES):
            self._lists["first"][row], self._lists["size"][row] = first, counts[family] + 1
            self._lists["head"][row] = self._lists["tail"][row] = 0
            first += counts[family] + 1

    def empty(self) -> None:
        """As if all numbers had been taken. For maps that no program looks at."""
        self._lists["head"] = self._lists["tail"]

    def take_all(self) -> None:
        """As if all numbers had been taken, while a program takes some. See `take_all` above."""
        take_all(self._lists)

    def give(self, family: int, numbers: Numbers) -> None:
        """Puts numbers at the end of a family's ring, which has a place for each of its numbers."""
        row = FAMILIES.index(family)
        first, size = int(self._lists["first"][row]), int(self._lists["size"][row])
        tail = int(self._lists["tail"][row])
        self._places[first + (tail + np.arange(len(numbers))) % size] = numbers
        self._lists["tail"][row] = (tail + len(numbers)) % size

    def waiting(self, family: int) -> Numbers:
        """A copy of what is in a family's ring, in the order in which it will be taken."""
        row = FAMILIES.index(family)
        first, size = int(self._lists["first"][row]), int(self._lists["size"][row])
        head, tail = int(self._lists["head"][row]), int(self._lists["tail"][row])
        return self._places[first + (head + np.arange((tail - head) % size)) % size]

    def count(self, family: int) -> int:
        """How many numbers are in a family's ring."""
        row = FAMILIES.index(family)
        head, tail, size = (int(self._lists[name][row]) for name in ("head", "tail", "size"))
        return (tail - head) % size if size else 0
