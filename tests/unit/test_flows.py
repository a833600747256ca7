# SPDX-License-Identifier: Apache-2.0
"""Reading a flow table that the tests fill by hand."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import numpy as np
import pytest
from earshot.relay.v1 import relay_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from control import abi, flows
from control.abi import FlowState
from control.addresses import Endpoint, to_bytes
from control.flows import Clock
from control.model import SessionName
from control.reports import flow_messages

TICKS = 1 << 32
ticks = st.integers(0, TICKS - 1)


def table(*records: dict[str, Any]) -> flows.Records:
    made = np.zeros(len(records), abi.FLOW)
    for record, fields in zip(made, records, strict=True):
        for field, value in fields.items():
            record[field] = value
    return made


def state(kind: FlowState, second: int = 1) -> int:
    return second << abi.FLOW_STATE_BITS | kind


@given(now=ticks, age=st.integers(0, TICKS // 2 - 1))
def test_idle_ticks_across_the_wrap(now: int, age: int) -> None:
    records = table({"last_seen": (now - age) % TICKS})
    assert flows.idle_ticks(records, np.zeros(1, np.uint32), now).tolist() == [age]


@given(now=ticks, ahead=st.integers(1, TICKS // 2 - 1))
def test_a_packet_after_the_clock_was_read_is_not_idle(now: int, ahead: int) -> None:
    records = table({"last_seen": (now + ahead) % TICKS})
    assert flows.idle_ticks(records, np.zeros(1, np.uint32), now).tolist() == [0]


@given(now=ticks, ages=st.lists(st.integers(0, 200), max_size=20), limit=st.integers(1, 200))
def test_idle_selection(now: int, ages: list[int], limit: int) -> None:
    records = table(*({"last_seen": (now - age) % TICKS} for age in ages))
    numbers = np.arange(len(ages), dtype=np.uint32)
    assert flows.idle(records, numbers, now, limit).tolist() == [
        n for n, age in enumerate(ages) if age >= limit
    ]


def test_in_state() -> None:
    states = np.array([state(kind, 7) for kind in FlowState], np.uint32)
    assert flows.in_state(states, FlowState.LIVE).tolist() == [FlowState.LIVE]
    assert flows.in_state(states, FlowState.LIVE, FlowState.SUPERSEDED).tolist() == [2, 3]


def test_of_sessions_takes_pairs() -> None:
    records = table(
        {"session": 1, "backend": 1},
        {"session": 1, "backend": 2},
        {"session": 2, "backend": 1},
        {"session": 2**32 - 1, "backend": 65535},
    )
    numbers = np.arange(4, dtype=np.uint32)
    assert flows.of_sessions(records, numbers, [(1, 2), (2**32 - 1, 65535)]).tolist() == [1, 3]
    assert flows.of_sessions(records, numbers[:1], [(1, 2)]).tolist() == []
    assert flows.of_sessions(records, numbers, []).tolist() == []


def test_count_by_session() -> None:
    live, dead = state(FlowState.LIVE), state(FlowState.DEAD)
    records = table(
        {"session": 7, "state": live},
        {"session": 7, "state": live},
        {"session": 7, "state": dead},
        {"session": 8},
    )
    assert flows.count_by_session(records) == {7: 2}


@pytest.mark.parametrize("seconds", [0.0, 1.0, 60.0, 86400.0])
def test_ticks_and_milliseconds(seconds: float) -> None:
    assert flows.milliseconds_of(flows.ticks_of(seconds)) == pytest.approx(seconds * 1000, abs=2)


class Table:
    """A flow table of two records, as the datapath shows it."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.flows = table({}, record)
        self.backends = np.zeros(3, abi.BACKEND)
        self.backends[2]["addr"] = np.void(to_bytes(ip_address("10.0.0.9")))
        self.backends[2]["port"] = 4000
        self.vips = [Endpoint(ip_address("203.0.113.1"), 3478)]

    def relay_endpoint(self, number: int) -> Endpoint:
        return Endpoint(ip_address("10.0.0.1"), 10000 + number)


def described(table: Table, name: SessionName, now: Clock) -> pb.Flow:
    """The table's only flow."""
    [flow] = flow_messages(table, np.array([1], np.uint32), [name], now)
    return flow


def test_describe() -> None:
    now = Clock.at(100_000_000_000)
    record = {
        "client_addr": np.void(to_bytes(ip_address("198.51.100.7"))),
        "client_port": 5000,
        "vip": 0,
        "backend": 2,
        "session": 1,
        "state": state(FlowState.LIVE, 90),
        "last_seen": now.ticks - flows.ticks_of(2.5),
        "up_packets": 1,
        "up_bytes": 2,
        "down_packets": 3,
        "down_bytes": 2**40,
    }
    flow = described(Table(record), SessionName("t1", "s1"), now)
    assert flow.flow_id == 90 << 32 | 1
    assert (flow.transceiver, flow.session_id) == ("t1", "s1")
    assert (flow.client.address, flow.client.port) == ("198.51.100.7", 5000)
    assert (flow.vip.address, flow.vip.port) == ("203.0.113.1", 3478)
    assert (flow.relay.address, flow.relay.port) == ("10.0.0.1", 10001)
    assert (flow.backend.address, flow.backend.port) == ("10.0.0.9", 4000)
    assert flow.age_seconds == 10
    assert flow.idle_milliseconds == pytest.approx(2500, abs=2)
    assert (flow.to_transceiver_packets, flow.to_transceiver_bytes) == (1, 2)
    assert (flow.to_client_packets, flow.to_client_bytes) == (3, 2**40)


def test_describe_a_vip_that_is_no_longer_known() -> None:
    flow = described(Table({"vip": 5, "state": state(FlowState.LIVE)}), SessionName("", ""), Clock.at(0))
    assert not flow.HasField("vip")


@pytest.mark.parametrize("text", ["0.0.0.0", "198.51.100.7", "2001:db8::7", "::1", "::", "64:ff9b::1"])
def test_describe_addresses(text: str) -> None:
    record = {"client_addr": np.void(to_bytes(ip_address(text))), "state": state(FlowState.LIVE)}
    assert described(Table(record), SessionName("", ""), Clock.at(0)).client.address == text


def test_describe_a_flow_that_has_been_silent_for_as_long_as_can_be_told() -> None:
    flow = described(Table({"state": state(FlowState.LIVE)}), SessionName("", ""), Clock(0.0, TICKS // 2 - 1))
    assert flow.idle_milliseconds == ((TICKS // 2 - 1) << abi.FLOW_TICK_SHIFT) // 1_000_000


def test_describe_several() -> None:
    both = Table({"session": 1, "state": state(FlowState.LIVE)})
    names = [SessionName("t", "a"), SessionName("t", "b")]
    found = list(flow_messages(both, np.array([1, 0], np.uint32), names, Clock.at(0)))
    assert [(flow.session_id, flow.relay.port) for flow in found] == [("a", 10001), ("b", 10000)]
