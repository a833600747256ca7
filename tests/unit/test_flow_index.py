# SPDX-License-Identifier: Apache-2.0
"""The daemon's side of the forward index, against a dictionary."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from control import abi, flow_index
from control.abi import BucketBit, BucketWord, SlotBit
from control.flow_index import Numbers, Records, Words
from control.layout import Layout

LAYOUT = Layout(1024, 1024 + 299, 1)


def table(layout: Layout = LAYOUT, seed: int = 0) -> tuple[Words, Records]:
    """An empty index, and records of clients drawn at random."""
    generator = np.random.default_rng(seed)
    flows = np.zeros(layout.records, abi.FLOW)
    flows["client_addr"] = np.frombuffer(generator.bytes(16 * layout.records), "V16")
    flows["client_port"] = generator.integers(1, 1 << 16, layout.records)
    return np.zeros((layout.buckets, BucketWord.WORDS), np.uint32), flows


def found(index: Words, flows: Records, layout: Layout = LAYOUT) -> set[int]:
    """What a search as bpf/index.h makes it would find, record by record."""
    numbers = np.arange(layout.records, dtype=np.uint32)
    places = flow_index.places_of(flow_index.keys_of(flows, numbers), layout)
    hits = set()
    for number in numbers.tolist():
        home = int(places.buckets[number])
        words = index[home]
        spilt = (words[BucketWord.SPILT] ^ words[BucketWord.REMOVED]) & np.uint32(BucketBit.SPILT_MASK)
        for turn in range(SlotBit.TURNS if spilt else 1):
            if (index[(home + turn) % layout.buckets] == (places.slots[number] | np.uint32(number))).any():
                hits.add(number)
    return hits


def some(numbers: set[int]) -> Numbers:
    return np.array(sorted(numbers), np.uint32)


@given(
    st.sets(st.integers(0, LAYOUT.records - 1)),
    st.sets(st.integers(0, LAYOUT.records - 1)),
    st.integers(0, 1000),
)
def test_what_is_entered_is_found_until_it_is_removed(entered: set[int], gone: set[int], seed: int) -> None:
    index, flows = table(seed=seed)
    flow_index.enter(index, flows, some(entered), LAYOUT)
    assert found(index, flows) == entered == set(flow_index.numbers_in(index).tolist())
    flow_index.remove(index, flows, some(gone), LAYOUT)
    assert found(index, flows) == entered - gone == set(flow_index.numbers_in(index).tolist())
    flow_index.remove(index, flows, some(entered), LAYOUT)
    assert not index[:, BucketWord.FIRST_SLOT :].any()
    assert not ((index[:, BucketWord.SPILT] ^ index[:, BucketWord.REMOVED]) & BucketBit.SPILT_MASK).any()


def crowded() -> tuple[Words, Records]:
    """Forty clients of one bucket: it has 14 slots."""
    index, flows = table()
    wanted = []
    for seed in range(1, 200):
        _, others = table(seed=seed)
        numbers = np.arange(LAYOUT.records, dtype=np.uint32)
        homes = flow_index.places_of(flow_index.keys_of(others, numbers), LAYOUT).buckets
        wanted.extend(others[homes == LAYOUT.buckets - 1])  # the last: the next ones are the first
        if len(wanted) >= 40:
            break
    flows[:40] = wanted[:40]
    flow_index.enter(index, flows, np.arange(40, dtype=np.uint32), LAYOUT)
    return index, flows


def test_entries_that_are_spilt_are_found_and_counted() -> None:
    index, flows = crowded()
    assert found(index, flows) == set(range(40))
    spilt = flow_index.homes_of_spilt(index, flows, LAYOUT)
    assert spilt.tolist() == [LAYOUT.buckets - 1] * 26
    assert index[-1, BucketWord.SPILT] == 26 * BucketBit.SPILT_ONE
    flow_index.remove(index, flows, some({3, 20, 33, 39}), LAYOUT)
    assert found(index, flows) == set(range(40)) - {3, 20, 33, 39}
    left = len(flow_index.homes_of_spilt(index, flows, LAYOUT))
    counted = index[-1, BucketWord.SPILT] - index[-1, BucketWord.REMOVED]
    assert counted == left * BucketBit.SPILT_ONE


@settings(max_examples=30)
@given(st.sets(st.integers(0, 39)), st.integers(0, 1 << 30))
@example(set(), 1_073_741_798)  # the counts go round
def test_counts_are_made_right_again(gone: set[int], start: int) -> None:
    """Entries went, and nobody counted; the counts had come round, too."""
    index, flows = crowded()
    mask = int(BucketBit.SPILT_MASK)
    index[-1, BucketWord.SPILT] = (int(index[-1, BucketWord.SPILT]) + 2 * start) & mask
    index[-1, BucketWord.REMOVED] = 2 * start & mask
    former = int(index[-1, BucketWord.REMOVED])
    flow_index.remove(index, flows, some(gone), LAYOUT)
    index[-1, BucketWord.REMOVED] = former
    flow_index.count_again(index, flows, LAYOUT)
    assert found(index, flows) == set(range(40)) - gone
    left = len(flow_index.homes_of_spilt(index, flows, LAYOUT))
    assert (int(index[-1, BucketWord.SPILT]) - int(index[-1, BucketWord.REMOVED])) & mask == 2 * left


def test_a_bucket_that_is_being_changed_is_left_alone() -> None:
    index, flows = crowded()
    index[-1, BucketWord.SPILT] |= np.uint32(BucketBit.LOCKED)
    index[-1, BucketWord.REMOVED] = 2
    flow_index.count_again(index, flows, LAYOUT)
    assert index[-1, BucketWord.REMOVED] == 2


def test_too_many_of_one_place_are_refused() -> None:
    index, flows = crowded()
    flows[100:160] = flows[:60]
    flows[100:140]["client_port"] = flows[:40]["client_port"]
    with pytest.raises(ValueError, match="found no slot"):
        flow_index.enter(index, flows, np.arange(100, 140, dtype=np.uint32), LAYOUT)


@pytest.mark.parametrize("clients", ["one after the other", "all behind one address", "of IPv6"])
def test_a_full_table_of_a_million_finds_room(clients: str) -> None:
    """With clients as alike as they come: an arithmetic progression is what a weak hash stumbles on."""
    layout = Layout(1024, 65535, 16)
    numbers = np.arange(layout.records, dtype=np.uint32)
    flows = np.zeros(layout.records, abi.FLOW)
    words = flows.view(np.uint32).reshape(layout.records, -1)
    words[:, 2] = 0xFFFF0000
    words[:, 3] = (0x0B000000 + numbers).byteswap()
    if clients == "all behind one address":
        words[:, 3] = (numbers >> np.uint32(16)).byteswap()
        flows["client_port"] = numbers & np.uint32(0xFFFF)
    elif clients == "of IPv6":
        words[:, 0], words[:, 2] = 0xB80D0120, 0
    index = np.zeros((layout.buckets, BucketWord.WORDS), np.uint32)
    flow_index.enter(index, flows, numbers, layout)
    assert len(flow_index.numbers_in(index)) == layout.records
    home = flow_index.places_of(flow_index.keys_of(flows, numbers), layout).buckets
    spilt = len(flow_index.homes_of_spilt(index, flows, layout))
    assert np.bincount(home).max() < 3 * 14
    assert spilt < layout.records / 100  # Poisson, 6 on average: 0.08 % are beyond the 14th
