# SPDX-License-Identifier: Apache-2.0
"""Records of the maps as JSON and as cells, column by column: what each kind of field becomes."""

from __future__ import annotations

import json
import random
from ipaddress import IPv6Address, ip_address
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from control import abi
from control.addresses import from_bytes, to_bytes
from control.cli import address_cells, cells, typed
from control.cli.fields import Objects, Same, json_of
from control.cli.output import Column


def told(values: NDArray[Any]) -> list[Any]:
    """As JSON has it."""
    rows = json.loads(b"[" + json_of({"value": typed.shown(values), "row": Same(None)}) + b"]")
    return [row["value"] for row in rows]


def cell(values: NDArray[Any]) -> list[str]:
    """As a table has it."""
    made = cells.joined([*typed.shown(values).as_text(Column("", "")), b"\n"], len(values))
    return cells.text_of(made).decode().splitlines()


def test_addresses_are_those_of_ipaddress() -> None:
    rng = random.Random(7)
    groups = [rng.choices([0, 1, 0x12, 0xABC, 0xFFFF], [6, 1, 1, 1, 1], k=8) for _ in range(3000)]
    made = [b"".join(group.to_bytes(2, "big") for group in one) for one in groups]
    made += [to_bytes(ip_address(rng.getrandbits(32))) for _ in range(500)]
    expected = [str(from_bytes(raw)) for raw in made]
    assert {"::", "::1"} < {*expected, str(IPv6Address(1))}
    shown = address_cells.addresses(np.array(made, "V16"))
    assert [bytes(row[row != 0]).decode() for row in shown] == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([b"voice-1", b"", b'a"b'], "S64"), ["voice-1", "", 'a"b']),
        (np.array([bytes(6), bytes.fromhex("02a0ff000001")], "V6"), [None, "02:a0:ff:00:00:01"]),
        (np.array([bytes(16), to_bytes(ip_address("10.0.0.1"))], "V16"), [None, "10.0.0.1"]),
        (np.array([b"\x00\x10\xff"], "V3"), ["0010ff"]),
        (np.array([[1, 2], [30, 0]], ">u2"), [[1, 2], [30, 0]]),
        (np.array([b"Xk3f"], "S32").view(abi.UFRAG_KEY), ["Xk3f"]),
    ],
    ids=["text", "mac", "address", "unknown", "several", "ufrag"],
)
def test_kinds(values: NDArray[Any], expected: list[Any]) -> None:
    assert told(values) == expected


def test_no_rows_are_no_rows() -> None:
    for dtype in (abi.FLOW, abi.SESSION, abi.BUCKET, abi.HOP_KEY, abi.OWNER, abi.PREFIX_KEY, abi.TAPS):
        assert told(np.zeros(0, dtype)) == []


def test_a_flow() -> None:
    flows = np.zeros(3, abi.FLOW)
    flows["client_addr"][0] = np.void(to_bytes(ip_address("2001:db8::7")))
    flows["client_port"], flows["last_seen"], flows["down_bytes"] = 40_000, 0xFFFFFFFF, 1 << 63
    flows["state"] = [77 << abi.FLOW_STATE_BITS | abi.FlowState.LIVE, 15, 9_999_999 << abi.FLOW_STATE_BITS]
    first, second, third = told(flows)
    assert [*first][:3] == ["client_addr", "client_port", "vip"]
    assert (first["client_addr"], first["client_port"]) == ("2001:db8::7", 40_000)
    assert (first["state"], first["bound_at_seconds"]) == ("live", 77)
    assert (first["last_seen"], first["down_bytes"]) == (0xFFFFFFFF, 1 << 63)
    assert (second["client_addr"], second["state"], second["bound_at_seconds"]) == (None, 15, 0)
    assert (third["state"], third["bound_at_seconds"]) == ("free", 9_999_999)
    assert cell(flows)[0].startswith("client_addr=2001:db8::7 client_port=40000 vip=0 ")
    assert " state=15 bound_at_seconds=0 " in cell(flows)[1]


def test_a_session_without_what_is_secret() -> None:
    sessions = np.zeros(2, abi.SESSION)
    sessions["inner"] = sessions["outer"] = 0xDEADBEEF
    sessions["backend"] = [[4, 0], [0, 5]]
    sessions["flags"] = [abi.SessionFlag.HAS_PWD | 320 << abi.SESSION_CLOCK_SHIFT, 0]
    sessions["id"] = [b"call-7", b""]
    first, second = told(sessions)
    assert (first["backend"], first["flags"], first["clock_rate"]) == ([4, 0], ["has_pwd"], 8000)
    assert (second["flags"], second["clock_rate"], second["id"]) == ([], 48_000, "")
    assert {first["inner"], first["outer"]} == {"hidden"}
    assert "backend=[4, 0] owner=0 flags=[has_pwd] clock_rate=8000 " in cell(sessions)[0]
    assert str(0xDEADBEEF) not in str(told(sessions)) + str(cell(sessions))


def test_a_bucket_lists_the_flows_that_are_in_it() -> None:
    buckets = np.zeros(3, abi.BUCKET)
    words = buckets["words"]
    used = 1 << 31
    words[0, abi.BucketWord.SPILT] = 3 * abi.BucketBit.SPILT_ONE | abi.BucketBit.LOCKED
    words[0, [3, 5, 15]] = [used | 77, used | 5 << abi.SlotBit.NUMBER_BITS | 12, used | 1]
    words[1, abi.BucketWord.FIRST_SLOT] = used | 9
    words[1, 4] = 55  # not used
    assert told(buckets) == [
        {"locked": True, "spilt": 3, "removed": 0, "flows": [77, 12, 1]},
        {"locked": False, "spilt": 0, "removed": 0, "flows": [9]},
        {"locked": False, "spilt": 0, "removed": 0, "flows": []},
    ]
    assert cell(buckets) == [
        "locked=true spilt=3 removed=0 flows=[77, 12, 1]",
        "locked=false spilt=0 removed=0 flows=[9]",
        "locked=false spilt=0 removed=0 flows=[]",
    ]


def test_prefixes() -> None:
    keys = np.zeros(2, abi.PREFIX_KEY)
    keys["bits"] = [96 + 24, 64]
    keys["addr"][0] = np.void(to_bytes(ip_address("198.51.100.0")))
    keys["addr"][1] = np.void(to_bytes(ip_address("2001:db8::")))
    assert told(keys) == ["198.51.100.0/24", "2001:db8::/64"]


def test_records_in_records() -> None:
    taps = np.zeros(1, abi.TAPS)
    taps["taps"]["reasons"][0, 1] = [7, 1 << 63]
    taps["taps"]["ufrag"]["ufrag"][0, 1] = b"aaaa"
    [shown] = told(taps)
    assert len(shown["taps"]) == abi.TAP_MAX
    assert (shown["taps"][1]["reasons"], shown["taps"][1]["ufrag"]) == ([7, 1 << 63], "aaaa")
    assert shown["taps"][0] == {**shown["taps"][1], "reasons": [0, 0], "ufrag": ""}


def test_cpus_have_values_of_their_own() -> None:
    counters = np.zeros((2, 3), abi.REASON_COUNTER)
    counters["packets"][1] = [1, 2, 30_000]
    assert [[one["packets"] for one in row] for row in told(counters)] == [[0, 0, 0], [1, 2, 30_000]]


def test_an_object_in_a_cell() -> None:
    field = Objects({"a": Same(None), "b": Same("hidden")})
    assert field.as_text(Column("", "")) == [b"a=", b"-", b" b=", b"hidden"]
