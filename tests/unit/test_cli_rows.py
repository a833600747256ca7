# SPDX-License-Identifier: Apache-2.0
"""Rows of sessions, transceivers and flows, made of arrays such as the maps hold."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

import numpy as np
import pytest
from numpy.typing import NDArray

from control import abi
from control.addresses import Endpoint, parse_endpoint, to_bytes
from control.cli import flow_rows
from control.cli.flow_rows import Client
from control.cli.session_table import SessionTable
from control.flows import Clock
from control.layout import Layout

NOW = Clock.at(1_000 * 10**9)
SECRET = 0xDEADBEEF
NONE_LIVE = np.zeros(3, np.intp)


class Maps:
    """Two transceivers, three sessions, and a flow in each state."""

    def __init__(self) -> None:
        self.vips = [parse_endpoint("203.0.113.1:3478"), parse_endpoint("[2001:db8::1]:3478")]
        self.relays = [ip_address("10.0.0.1")]
        self.layout = Layout(10_000, 10_015, 1)
        self.backends = np.zeros(4, abi.BACKEND)
        self.flows = np.zeros(16, abi.FLOW)
        self.owners = np.zeros(abi.OWNER_MAX, abi.OWNER)
        self.keys = np.zeros(4, abi.UFRAG_KEY)
        self.values = np.zeros(4, abi.SESSION)
        for number, endpoint in ((1, "10.0.0.9:5000"), (2, "[fd00::9]:5000")):
            parsed = parse_endpoint(endpoint)
            self.backends["addr"][number] = np.void(to_bytes(parsed.address))
            self.backends["port"][number] = parsed.port
        self.owners["name"][[0, 3]] = b"voice-1", b"voice-2"
        self.owners["attached"][0] = 1
        self.owners["since"][[0, 3]] = 940, 999
        entries = [
            # ufrag, number, owner, backends, expires, flags, id
            (b"aaaa", 7, 0, (1, 2), 0, abi.SessionFlag.HAS_PWD, b"call-7"),
            (b"bbbb", 9, 3, (1, 0), 1_030, 0, b"call-1"),
            (b"cccc", 7, 0, (1, 2), 0, abi.SessionFlag.HAS_PWD, b"call-7"),
            (b"dddd", 8, 0, (0, 2), 900, 0, b"call-1"),
        ]
        for index, (ufrag, *rest) in enumerate(entries):
            self.keys["ufrag"][index] = ufrag
            for field, value in zip(
                ("number", "owner", "backend", "expires", "flags", "id"), rest, strict=True
            ):
                self.values[field][index] = value
        self.values["inner"] = self.values["outer"] = SECRET
        self.enter(3, "198.51.100.7:40000", 7, abi.FlowState.LIVE, bound=990)
        self.enter(1, "198.51.100.7:40001", 8, abi.FlowState.LIVE, bound=100)
        self.enter(5, "[2001:db8::7]:40000", 9, abi.FlowState.SUPERSEDED, bound=995)
        self.enter(4, "198.51.100.8:40000", 6, abi.FlowState.DEAD, bound=50)
        self.enter(2, "198.51.100.9:40000", 7, abi.FlowState.BINDING, bound=999)

    def enter(self, number: int, client: str, session: int, state: abi.FlowState, bound: int) -> None:
        endpoint = parse_endpoint(client)
        self.flows["client_addr"][number] = np.void(to_bytes(endpoint.address))
        self.flows["client_port"][number] = endpoint.port
        self.flows["vip"][number] = endpoint.address.version == 6
        self.flows["session"][number] = session
        self.flows["backend"][number] = 1
        self.flows["state"][number] = state | bound << abi.FLOW_STATE_BITS
        self.flows["last_seen"][number] = NOW.ticks - 100
        for index, field in enumerate(("up_packets", "down_packets", "up_bytes", "down_bytes")):
            self.flows[field][number] = (index + 1) * 1000

    def relay_endpoint(self, number: int) -> Endpoint:
        return self.layout.endpoint(number, self.relays)

    def session_batches(self) -> Iterator[tuple[NDArray[np.void], NDArray[np.void]]]:
        yield self.keys[:3], self.values[:3]
        yield self.keys[3:], self.values[3:]

    def read_owners(self) -> NDArray[np.void]:
        return self.owners


@pytest.fixture
def maps() -> Maps:
    return Maps()


def test_a_session_is_one_row_whatever_its_ufrags(maps: Maps) -> None:
    table = SessionTable(maps)
    assert list(table.rows(table.all(), np.array([3, 0, 0]), NOW)) == [
        {
            "session_id": "call-7",
            "transceiver": "voice-1",
            "ufrags": ["aaaa", "cccc"],
            "endpoints": ["10.0.0.9:5000", "[fd00::9]:5000"],
            "ttl_seconds": None,
            "flows": 3,
            "has_pwd": True,
        },
        {
            "session_id": "call-1",
            "transceiver": "voice-1",
            "ufrags": ["dddd"],
            "endpoints": ["[fd00::9]:5000"],
            "ttl_seconds": 0,
            "flows": 0,
            "has_pwd": False,
        },
        {
            "session_id": "call-1",
            "transceiver": "voice-2",
            "ufrags": ["bbbb"],
            "endpoints": ["10.0.0.9:5000"],
            "ttl_seconds": 30,
            "flows": 0,
            "has_pwd": False,
        },
    ]


def test_live_flows_are_counted_by_session(maps: Maps) -> None:
    maps.enter(6, "198.51.100.7:40002", 7, abi.FlowState.LIVE, bound=990)
    maps.enter(7, "198.51.100.7:40003", 12, abi.FlowState.LIVE, bound=990)  # of a session that is gone
    assert SessionTable(maps).live_flows(maps.flows).tolist() == [2, 1, 0]
    maps.keys, maps.values = maps.keys[:0], maps.values[:0]
    assert SessionTable(maps).live_flows(maps.flows).tolist() == []


def test_key_states_are_in_no_row(maps: Maps) -> None:
    table = SessionTable(maps)
    text = str([*table.rows(table.all(), NONE_LIVE, NOW), *table.transceiver_rows(NONE_LIVE, NOW)])
    text += str(list(flow_rows.rows(maps, flow_rows.shown(maps.flows), table, NOW)))
    assert str(SECRET) not in text
    assert f"{SECRET:x}" not in text


@pytest.mark.parametrize(
    ("wanted", "numbers"), [("aaaa", [7]), ("cccc", [7]), ("call-7", [7]), ("call-1", [8, 9]), ("no", [])]
)
def test_sessions_are_found_by_ufrag_and_by_id(maps: Maps, wanted: str, numbers: list[int]) -> None:
    table = SessionTable(maps)
    assert table.numbers[table.find(wanted)].tolist() == numbers


@pytest.mark.parametrize(("name", "numbers"), [("voice-1", [7, 8]), ("voice-2", [9]), ("voice-3", [])])
def test_sessions_of_a_transceiver(maps: Maps, name: str, numbers: list[int]) -> None:
    table = SessionTable(maps)
    assert table.numbers[table.of_transceiver(name)].tolist() == numbers


def test_transceivers(maps: Maps) -> None:
    assert list(SessionTable(maps).transceiver_rows(np.array([2, 0, 1]), NOW)) == [
        {"transceiver": "voice-1", "attached": True, "since_seconds": 60, "sessions": 2, "flows": 2},
        {"transceiver": "voice-2", "attached": False, "since_seconds": 1, "sessions": 1, "flows": 1},
    ]


def test_empty_maps(maps: Maps) -> None:
    maps.keys, maps.values = maps.keys[:0], maps.values[:0]
    maps.owners["name"] = b""
    table = SessionTable(maps)
    assert list(table.rows(table.all(), NONE_LIVE, NOW)) == []
    assert list(table.transceiver_rows(NONE_LIVE, NOW)) == []
    for names in table.named(np.array([7, 8], np.uint32)):
        assert names.there is not None
        assert names.there.tolist() == [False, False]
    assert list(flow_rows.rows(maps, flow_rows.shown(maps.flows[:0]), table, NOW)) == []


def test_a_flow(maps: Maps) -> None:
    [row] = flow_rows.rows(maps, np.array([3], np.uint32), SessionTable(maps), NOW)
    assert row == {
        "flow_id": str(990 << 32 | 3),
        "state": "live",
        "transceiver": "voice-1",
        "session_id": "call-7",
        "client": "198.51.100.7:40000",
        "vip": "203.0.113.1:3478",
        "relay": "10.0.0.1:10003",
        "backend": "10.0.0.9:5000",
        "to_transceiver_packets": 1000,
        "to_client_packets": 2000,
        "to_transceiver_bytes": 3000,
        "to_client_bytes": 4000,
        "age_seconds": 10,
        "idle_milliseconds": 104,
    }


def test_flows_come_oldest_first_without_those_being_bound(maps: Maps) -> None:
    rows = flow_rows.rows(maps, flow_rows.shown(maps.flows), SessionTable(maps), NOW)
    assert [(row["state"], row["client"], row["vip"]) for row in rows] == [
        ("dead", "198.51.100.8:40000", "203.0.113.1:3478"),
        ("live", "198.51.100.7:40001", "203.0.113.1:3478"),
        ("live", "198.51.100.7:40000", "203.0.113.1:3478"),
        ("superseded", "[2001:db8::7]:40000", "[2001:db8::1]:3478"),
    ]


def test_what_is_gone_of_an_ended_flow_is_unknown(maps: Maps) -> None:
    maps.backends["port"][1] = 0
    [row] = flow_rows.rows(maps, np.array([4], np.uint32), SessionTable(maps), NOW)
    assert (row["transceiver"], row["session_id"], row["backend"]) == (None, None, None)


def test_a_flow_that_became_free_meanwhile_is_left_out(maps: Maps) -> None:
    numbers = flow_rows.shown(maps.flows)
    maps.flows[3] = np.zeros(1, abi.FLOW)[0]
    rows = list(flow_rows.rows(maps, numbers, SessionTable(maps), NOW))
    assert len(rows) == len(numbers) - 1


def test_more_flows_than_are_described_at_once(maps: Maps) -> None:
    maps.flows = np.repeat(maps.flows[3:4], 10_000)
    maps.layout = Layout(10_000, 19_999, 1)
    rows = flow_rows.rows(maps, flow_rows.shown(maps.flows), SessionTable(maps), NOW)
    assert [row["relay"] for row in rows] == [f"10.0.0.1:{10_000 + number}" for number in range(10_000)]


@pytest.mark.parametrize(
    ("client", "numbers"),
    [
        ("198.51.100.7", [1, 3]),
        ("198.51.100.7:40001", [1]),
        ("2001:db8::7", [5]),
        ("[2001:db8::7]:40000", [5]),
        ("[2001:db8::7]:1", []),
        ("198.51.100.70", []),
    ],
)
def test_flows_of_a_client(maps: Maps, client: str, numbers: list[int]) -> None:
    shown = flow_rows.shown(maps.flows)
    assert flow_rows.of_client(maps.flows, shown, Client.parse(client)).tolist() == numbers


def test_flows_of_sessions(maps: Maps) -> None:
    shown = flow_rows.shown(maps.flows)
    wanted = np.array([7, 9], np.uint32)
    assert flow_rows.of_sessions(maps.flows, shown, wanted).tolist() == [3, 5]


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (990 << 32 | 3, [3]),
        (989 << 32 | 3, []),  # an earlier flow of the same record
        (0, []),
        (999 << 32 | 2, []),  # still being bound
        (990 << 32 | 16, []),
        ((1 << 64) - 1, []),
    ],
)
def test_a_flow_is_found_by_its_id(maps: Maps, wanted: int, numbers: list[int]) -> None:
    assert flow_rows.find(maps.flows, wanted).tolist() == numbers
