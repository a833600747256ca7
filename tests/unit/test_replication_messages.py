# SPDX-License-Identifier: Apache-2.0
"""Messages between relays of a group: what is said comes out again, and what cannot be is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.addresses import parse_endpoint
from control.model import SessionName
from control.replication.announce import gratuitous_arp, unsolicited_advertisement
from control.replication.message import ROW, Kind, Message, MessageError, Rows


def rows(**columns: int) -> Rows:
    made = np.zeros(1, ROW)
    made["is_live"], made["client_port"], made["port"] = 1, 50001, 20001
    for name, value in columns.items():
        made[name] = value
    return made


MESSAGE = Message(
    relay="relay-1",
    run=12345678901234,
    kind=Kind.CHANGES,
    sequence=7,
    addresses=(ip_address("10.20.0.1"), ip_address("fd00:20::1")),
    vips=(parse_endpoint("203.0.113.1:3478"),),
    backends=(parse_endpoint("10.30.0.10:40000"), parse_endpoint("[fd00:30::10]:40000")),
    sessions=(SessionName("voice-1", "call"),),
    body=rows(relay=1, backend=1).tobytes(),
)


def test_what_is_said_comes_out_again() -> None:
    assert Message.decode(MESSAGE.encode()) == MESSAGE
    part = replace(MESSAGE, kind=Kind.LIST, is_first=True, body=b"")
    assert Message.decode(part.encode()) == part
    bits = replace(MESSAGE, kind=Kind.ACTIVE, body=bytes(range(125)))
    assert Message.decode(bits.encode()).body == bits.body


def test_a_session_may_be_known_by_its_number() -> None:
    derived = replace(MESSAGE, sessions=(), body=rows(session=1 << 31 | 5).tobytes())
    assert Message.decode(derived.encode()).rows["session"].tolist() == [1 << 31 | 5]


@pytest.mark.parametrize(
    "body",
    [
        rows(relay=2).tobytes(),
        rows(vip=1).tobytes(),
        rows(backend=2).tobytes(),
        rows(session=1).tobytes(),
        rows().tobytes()[:-1],
    ],
    ids=["relay", "vip", "backend", "session", "short"],
)
def test_rows_that_refer_to_nothing_are_refused(body: bytes) -> None:
    with pytest.raises(MessageError):
        Message.decode(replace(MESSAGE, body=body).encode())


def test_a_row_of_an_ended_flow_refers_to_little() -> None:
    ended = replace(MESSAGE, vips=(), backends=(), sessions=(), body=rows(is_live=0, vip=9).tobytes())
    assert Message.decode(ended.encode()) == ended


def test_another_version_is_refused() -> None:
    raw = MESSAGE.encode()
    length = int.from_bytes(raw[:4], "big")
    head = json.dumps({**json.loads(raw[4 : 4 + length]), "version": 2}).encode()
    with pytest.raises(MessageError, match="version 2"):
        Message.decode(len(head).to_bytes(4, "big") + head + raw[4 + length :])


@given(st.binary(max_size=64) | st.binary(max_size=8).map(lambda tail: MESSAGE.encode()[:-80] + tail))
def test_whatever_else_comes_is_refused(raw: bytes) -> None:
    with pytest.raises(MessageError):
        Message.decode(raw)


@given(st.integers(0, 255), st.integers(0, len(MESSAGE.encode()) - 1))
def test_damage_is_refused_or_harmless(byte: int, place: int) -> None:
    raw = bytearray(MESSAGE.encode())
    raw[place] = byte
    try:
        message = Message.decode(bytes(raw))
    except MessageError:
        return
    assert len(message.rows) == 1 or message.kind not in (Kind.CHANGES, Kind.LIST)


def _sum(data: bytes) -> int:
    total = sum(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_announcements() -> None:
    """By RFC 5227 and RFC 4861, byte for byte."""
    mac = bytes.fromhex("020000000001")
    arp = gratuitous_arp(IPv4Address("10.20.0.1"), mac)
    assert arp.hex() == (
        "ffffffffffff" + "020000000001" + "0806" + "0001080006040001"
        "020000000001" + "0a140001" + "000000000000" + "0a140001"
    )
    address = IPv6Address("fd00:20::1")
    frame = unsolicited_advertisement(address, mac)
    assert frame[:14].hex() == "333300000001" + "020000000001" + "86dd"
    packet, icmp = frame[14:54], frame[54:]
    assert packet[4:8].hex() == f"{len(icmp):04x}" + "3aff"
    assert (icmp[0], icmp[4], icmp[8:24], icmp[24:].hex()) == (136, 0x20, address.packed, "0201020000000001")
    assert _sum(packet[8:40] + len(icmp).to_bytes(4, "big") + b"\0\0\0\x3a" + icmp) == 0xFFFF
