# SPDX-License-Identifier: Apache-2.0
"""The daemon's side of the forward index: bpf/index.h has XDP's, docs/flow-table.md the rules.

Pure functions over arrays: the index as buckets of words, and the records, both the kernel's own memory.
A slot is only ever emptied here; `enter` is for tables that no program looks at yet.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from control import abi
from control.abi import BucketBit, BucketWord, SlotBit
from control.layout import Layout

Words = NDArray[np.uint32]  # (buckets, 16)
Numbers = NDArray[np.uint32]
Records = NDArray[np.void]

_USED = np.uint32(1 << 31)
_NUMBER = np.uint32((1 << SlotBit.NUMBER_BITS) - 1)
_KEY_WORDS = abi.FLOW_KEY.itemsize // 4
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_32 = np.uint64(32)
_CHUNK = 1 << 16  # records at a time, so that a million of them take little memory


class Places(NamedTuple):
    """Where entries belong."""

    buckets: NDArray[np.int64]  # their homes
    starts: NDArray[np.int64]  # the word in each that a search begins at
    slots: NDArray[np.uint32]  # the used bit and the tag; the number is to be added


def words_of(index: NDArray[np.void]) -> Words:
    """The buckets of flow_index_v2 as rows of words."""
    return index["words"]


def keys_of(flows: Records, numbers: Numbers) -> NDArray[np.uint32]:
    """The keys that records begin with: five words each, as they stand in memory."""
    return flows.view(np.uint32).reshape(len(flows), -1)[numbers, :_KEY_WORDS]


def places_of(keys: NDArray[np.uint32], layout: Layout) -> Places:
    """The hash of bpf/index.h."""
    k = np.array(layout.hash_key, np.uint32)
    wide = [(keys[:, word] + k[word]).astype(np.uint64) for word in range(_KEY_WORDS)]
    h = wide[0] * wide[1] + wide[2] * wide[3] + wide[4] * np.uint64(k[5] | np.uint32(1))
    h = (h ^ h >> _32) * _SPREAD
    upper, lower = h >> _32, h.astype(np.uint32)
    tags = lower >> np.uint32(SlotBit.NUMBER_BITS) & np.uint32((1 << SlotBit.TAG_BITS) - 1)
    return Places(
        (upper * np.uint64(layout.buckets) >> _32).astype(np.int64),
        (lower >> np.uint32(16) & np.uint32(BucketWord.WORDS - 1)).astype(np.int64),
        _USED | tags << np.uint32(SlotBit.NUMBER_BITS),
    )


def remove(index: Words, flows: Records, numbers: Numbers, layout: Layout) -> None:
    """Empties the slots of records that are DEAD, those that have one."""
    for start in range(0, len(numbers), _CHUNK):
        part = numbers[start : start + _CHUNK]
        places = places_of(keys_of(flows, part), layout)
        turns = np.arange(SlotBit.TURNS)
        buckets = (places.buckets[:, None] + turns) % layout.buckets
        entry, turn, word = np.nonzero(index[buckets] == (places.slots | part)[:, None, None])
        index[buckets[entry, turn], word] = 0
        # Only then: a search may look further than it needs to, never less far.
        spilt = entry[turn > 0]
        removed = index[:, BucketWord.REMOVED]
        np.add.at(removed, places.buckets[spilt], np.uint32(BucketBit.SPILT_ONE))
        removed[places.buckets[spilt]] &= np.uint32(BucketBit.SPILT_MASK)


def numbers_in(index: Words) -> Numbers:
    """The numbers of all records that are entered, once for each entry."""
    slots = index[:, BucketWord.FIRST_SLOT :]
    numbers: Numbers = slots[slots & _USED != 0] & _NUMBER
    return numbers


def homes_of_spilt(index: Words, flows: Records, layout: Layout) -> NDArray[np.int64]:
    """The homes of all entries that are not in them, once for each entry."""
    slots = index[:, BucketWord.FIRST_SLOT :]
    buckets, at = np.nonzero(slots & _USED)
    # A number that no record has would be damage: XDP passes it by, and so does this.
    numbers = np.minimum(slots[buckets, at] & _NUMBER, np.uint32(len(flows) - 1))
    homes = places_of(keys_of(flows, numbers), layout).buckets
    spilt: NDArray[np.int64] = homes[homes != buckets]
    return spilt


def count_again(index: Words, flows: Records, layout: Layout) -> None:
    """Makes right what is counted as removed, where a daemon died before it counted.

    Buckets in which a program spills an entry meanwhile are left alone: then word 0 has changed,
    or is locked.
    """
    spilt = index[:, BucketWord.SPILT].copy()
    doubtful = np.flatnonzero((spilt ^ index[:, BucketWord.REMOVED]) & np.uint32(BucketBit.SPILT_MASK))
    if not len(doubtful):
        return
    homes, counts = np.unique(homes_of_spilt(index, flows, layout), return_counts=True)
    there = np.zeros(layout.buckets, np.uint32)
    there[homes] = counts * BucketBit.SPILT_ONE
    for bucket in doubtful.tolist():
        if not spilt[bucket] & BucketBit.LOCKED and index[bucket, BucketWord.SPILT] == spilt[bucket]:
            # In Python's numbers: both counts go round, and numpy warns of single ones that do.
            removed = int(spilt[bucket]) - int(there[bucket])
            index[bucket, BucketWord.REMOVED] = removed & int(BucketBit.SPILT_MASK)


def enter(index: Words, flows: Records, numbers: Numbers, layout: Layout) -> None:
    """Enters records where the program would, in a table that no program looks at yet.

    Raises:
        ValueError: an entry found no slot.
    """
    places = places_of(keys_of(flows, numbers), layout)
    waiting = np.arange(len(numbers))
    for turn in range(SlotBit.TURNS):
        buckets = (places.buckets + turn) % layout.buckets
        for step in range(BucketWord.WORDS):
            words = (places.starts[waiting] + step) % BucketWord.WORDS
            fits = (words >= BucketWord.FIRST_SLOT) & (index[buckets[waiting], words] == 0)
            # Of those that want the same word, one gets it.
            _, first = np.unique((buckets[waiting] * BucketWord.WORDS + words)[fits], return_index=True)
            got = np.flatnonzero(fits)[first]
            chosen = waiting[got]
            index[buckets[chosen], words[got]] = places.slots[chosen] | numbers[chosen]
            waiting = np.delete(waiting, got)
        if not len(waiting):
            return
        if not turn:
            np.add.at(index[:, BucketWord.SPILT], places.buckets[waiting], np.uint32(BucketBit.SPILT_ONE))
    raise ValueError(f"{len(waiting)} of {len(numbers)} flows found no slot in the index")
