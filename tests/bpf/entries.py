# SPDX-License-Identifier: Apache-2.0
"""The forward index in the rig's hands: entries made by hand, and what must hold of it after any packet."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from control import flow_index
from control.abi import BucketBit, BucketWord, SlotBit
from control.datapath import Datapath
from tests.bpf import world

_USED = 1 << 31
_SLOTS = range(BucketWord.FIRST_SLOT, BucketWord.WORDS)
_SPILT = np.uint32(BucketBit.SPILT_MASK)


class Entries:
    """What the datapath's index holds.

    Strays are entries that lead to a record of another key, or to none: no program makes them, but each
    must pass them by.
    """

    def __init__(self, datapath: Datapath) -> None:
        self._datapath = datapath
        self._index = datapath.index
        self._buckets = datapath.layout.buckets
        self._strays: dict[tuple[int, int], int] = {}  # the word, by bucket and place in it

    def clear(self) -> None:
        self._index[:] = 0
        self._strays.clear()

    def home(self, key: bytes) -> int:
        """The bucket that a key's entries belong in."""
        return self._place(key)[0]

    def put(self, key: bytes, number: int) -> None:
        """Enters a record under a key, its own or another's, at home; AssertionError where that is full."""
        home, start, slot = self._place(key)
        turns = [(start + step) % BucketWord.WORDS for step in range(BucketWord.WORDS)]
        at = next((word for word in turns if word in _SLOTS and not self._index[home, word]), None)
        assert at is not None, f"bucket {home} is full"
        self._index[home, at] = slot | number
        flows = self._datapath.flows
        if number >= len(flows) or flows[number].tobytes()[: len(key)] != key:
            self._strays[home, at] = slot | number

    def fill(self, *, but: Collection[int] = ()) -> None:
        """Takes every slot that is empty, with entries that lead nowhere, but those of some buckets."""
        for bucket in set(range(self._buckets)) - {other % self._buckets for other in but}:
            for word in _SLOTS:
                if not self._index[bucket, word]:
                    tag = (bucket * 157 + word * 131) % (1 << SlotBit.TAG_BITS)  # of all kinds
                    entry = _USED | tag << SlotBit.NUMBER_BITS | world.ABSENT_RECORD
                    self._index[bucket, word] = self._strays[bucket, word] = entry

    def sweep(self) -> None:
        """Takes the strays out again."""
        for at in self._strays:
            self._index[at] = 0
        self._strays.clear()

    def lock(self, *keys: bytes) -> None:
        """As if another CPU were binding in the home of these keys, and never ended; no key: in all."""
        homes = [self.home(key) for key in keys] or slice(None)
        self._index[homes, BucketWord.SPILT] |= np.uint32(BucketBit.LOCKED)

    def locked(self) -> list[int]:
        """The buckets that are locked."""
        return np.flatnonzero(self._index[:, BucketWord.SPILT] & BucketBit.LOCKED).tolist()

    def removed(self) -> list[int]:
        """What the daemon has counted, by bucket."""
        removed: list[int] = self._index[:, BucketWord.REMOVED].tolist()
        return removed

    def records(self, key: bytes) -> list[int]:
        """The records of a key that are entered, whatever their state."""
        flows = self._datapath.flows
        numbers = sorted(flow_index.numbers_in(self._index).tolist())
        return [one for one in numbers if one < len(flows) and flows[one].tobytes()[: len(key)] == key]

    def buckets_of(self, number: int) -> list[int]:
        """The buckets in which a record is entered."""
        slots = self._index[:, BucketWord.FIRST_SLOT :]
        entered = (slots & _USED != 0) & (slots & (1 << SlotBit.NUMBER_BITS) - 1 == number)
        return np.flatnonzero(entered.any(axis=1)).tolist()

    def read(self) -> list[int]:
        """The numbers of all records that are entered, strays among them, in order of number.

        AssertionError where an entry is not where its record's hash says: in its home or one of the next
        three, by its tag; or where what has been spilt is not counted.
        """
        index, layout, flows = self._index.copy(), self._datapath.layout, self._datapath.flows
        slots = index[:, BucketWord.FIRST_SLOT :]
        numbers = sorted(flow_index.numbers_in(index).tolist())
        assert ((slots == 0) | (slots & _USED != 0)).all(), "a slot is neither empty nor used"
        assert not (index[:, : BucketWord.FIRST_SLOT] & _USED).any(), "a count looks like an entry"
        for at, entry in self._strays.items():
            assert index[at] == entry, f"the stray entry at {at} became {index[at]:x}"
            index[at] = 0

        buckets, words = np.nonzero(slots)
        entries = slots[buckets, words]
        records = entries & np.uint32((1 << SlotBit.NUMBER_BITS) - 1)
        assert (records < len(flows)).all(), f"absent records are entered: {records}"
        places = flow_index.places_of(flow_index.keys_of(flows, records), layout)
        assert (entries == places.slots | records).all(), "a tag is not its record's"
        turns = (buckets - places.buckets) % layout.buckets
        assert (turns < SlotBit.TURNS).all(), f"entered too far from home: {records[turns >= SlotBit.TURNS]}"
        spilt = np.bincount(places.buckets[turns > 0], minlength=layout.buckets) * BucketBit.SPILT_ONE
        counted = (index[:, BucketWord.SPILT] & _SPILT) - index[:, BucketWord.REMOVED] & _SPILT
        assert (counted == spilt).all(), f"counted as spilt: {counted}, but there are {spilt}"
        return numbers

    def _place(self, key: bytes) -> tuple[int, int, int]:
        """Home, word to begin at, used bit and tag."""
        places = flow_index.places_of(np.frombuffer(key, np.uint32).reshape(1, -1), self._datapath.layout)
        return int(places.buckets[0]), int(places.starts[0]), int(places.slots[0])
