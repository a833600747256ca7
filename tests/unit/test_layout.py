# SPDX-License-Identifier: Apache-2.0
"""Numbers of records, and how much memory they take."""

from __future__ import annotations

from ipaddress import ip_address

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control import abi
from control.addresses import Endpoint
from control.layout import Layout

layouts = st.builds(
    lambda first, last, relays: Layout(min(first, last), max(first, last), relays),
    st.integers(1, 65535),
    st.integers(1, 65535),
    st.integers(1, abi.RELAY_MAX),
)


@given(layouts, st.data())
def test_numbers_and_endpoints(layout: Layout, data: st.DataObject) -> None:
    number = data.draw(st.integers(0, layout.records - 1))
    relay, port = layout.relay_and_port(number)
    assert layout.number(relay, port) == number
    assert 0 <= relay < layout.relays
    assert layout.port_min <= port <= layout.port_max
    relays = [ip_address("10.0.0.0") + one for one in range(layout.relays)]
    assert layout.endpoint(number, relays) == Endpoint(relays[relay], port)


@given(layouts)
def test_the_ratio_divides(layout: Layout) -> None:
    """As bpf/flow.h does it: in 64 bits, for every number."""
    numbers = np.arange(layout.records, dtype=np.uint64)
    quotients = numbers * np.uint64(layout.relay_ratio) >> np.uint64(40)
    assert (quotients == numbers // np.uint64(layout.span)).all()
    assert (layout.records - 1) * layout.relay_ratio < 1 << 64


@given(layouts)
def test_a_layout_is_what_its_record_says(layout: Layout) -> None:
    read = Layout.of_record(layout.record())
    assert read == layout
    assert read is not None
    assert read.hash_key == layout.hash_key


def test_new_maps_have_no_layout() -> None:
    assert Layout.of_record(np.zeros(1, abi.LAYOUT)) is None


def test_keys_are_never_the_same() -> None:
    assert Layout(1, 2, 1).hash_key != Layout(1, 2, 1).hash_key


@pytest.mark.parametrize(
    ("first", "last", "relays"), [(10000, 32767, 1), (1024, 65535, 16), (1024, 65535, 1)]
)
def test_a_flow_takes_less_than_100_bytes(first: int, last: int, relays: int) -> None:
    layout = Layout(first, last, relays)
    sizes = layout.sizes()
    entry = {"flows_v2": abi.FLOW, "flow_index_v2": abi.BUCKET, "free_flows_v2": abi.FREE_LINE}
    total = sum(entries * entry[name].itemsize for name, entries in sizes.items())
    assert total / layout.records < 80
