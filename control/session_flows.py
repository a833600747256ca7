# SPDX-License-Identifier: Apache-2.0
"""Which flow records belong to which session, so that ending a session need not look at all flows.

Doubly linked lists in arrays, 16 bytes a record: no object of Python's for any flow. Sessions whose
numbers are alike in their low bits share a list; numbers are given out in order, so that lists are short.
A record stays where it is when its flow ends, until it is used again: who asks looks at the record anyway.
Each array holds numbers of records plus one, so that the zeros it begins with mean none.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.uint32]


class SessionFlows:
    """Record numbers by session number (not 0)."""

    def __init__(self, records: int) -> None:
        """For record numbers below `records`."""
        self._mask = (1 << max(1, (records - 1).bit_length())) - 1
        self._session = np.zeros(records, np.uint32)  # 0: the record is in no list
        self._heads = np.zeros(self._mask + 1, np.uint32)
        self._next = np.zeros(records, np.uint32)
        self._previous = np.zeros(records, np.uint32)
        # The same memory, for one word at a time: three times as fast as numpy at that.
        self._words = tuple(array.data for array in (self._session, self._heads, self._next, self._previous))

    def add(self, numbers: Numbers, sessions: Numbers) -> None:
        """These records, none twice, belong to these sessions from now on, whatever they did before."""
        self._unlink(numbers[self._session[numbers] != 0].tolist())
        buckets = sessions & np.uint32(self._mask)
        order = np.argsort(buckets, kind="stable")
        numbers, sessions, buckets = numbers[order], sessions[order], buckets[order]
        is_last = np.append(buckets[1:] != buckets[:-1], True)[: len(buckets)]
        is_first = np.roll(is_last, 1)
        entries = numbers + np.uint32(1)
        old = self._heads[buckets[is_last]]
        self._session[numbers] = sessions
        # Each is followed by the next of its bucket, and the last one by what the bucket held before.
        following = np.append(entries[1:], np.uint32(0))[: len(entries)]
        following[is_last] = old
        self._next[numbers] = following
        preceding = np.append(np.uint32(0), entries[:-1])[: len(entries)]
        preceding[is_first] = 0
        self._previous[numbers] = preceding
        self._previous[old[old > 0] - np.uint32(1)] = entries[is_last][old > 0]
        self._heads[buckets[is_first]] = entries[is_first]

    def grown(self, records: int) -> SessionFlows:
        """The same for more records."""
        made = SessionFlows(records)
        numbers = np.flatnonzero(self._session).astype(np.uint32)
        made.add(numbers, self._session[numbers])
        return made

    def _unlink(self, numbers: Iterable[int]) -> None:
        """Takes records out of the lists that they are in."""
        session, heads, following, previous = self._words
        for number in numbers:
            after, before = following[number], previous[number]
            if before:
                following[before - 1] = after
            else:
                heads[session[number] & self._mask] = after
            if after:
                previous[after - 1] = before

    def of(self, session: int) -> list[int]:
        """The records that were last added for a session."""
        sessions, heads, following, _ = self._words
        found = []
        entry = heads[session & self._mask]
        while entry:
            if sessions[entry - 1] == session:
                found.append(entry - 1)
            entry = following[entry - 1]
        return found
