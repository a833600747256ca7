# SPDX-License-Identifier: Apache-2.0
"""Makes the fuzz targets' first inputs of the captured calls.

    python -m tests.fuzz.corpus build/fuzz/corpus

The world of world.h has one pwd for all sessions, so requests are signed anew; its addresses
take the place of the captured ones. One file of `packets` is the beginning of a call: requests,
answers, and a packet each of what follows; one of `stun` is a message.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from tests.bpf import pcap, stun
from tests.bpf.packets import Datagram, parse

CAPTURES = Path(__file__).parent.parent / "data" / "captures"
PWD = b"the-pwd-of-all-fuzzed-sessions"
VIPS = {4: ip_address("10.77.9.9"), 6: ip_address("2001:db8:f::1")}
CLIENTS = {4: ip_address("192.0.2.4"), 6: ip_address("2001:db8::4")}  # their last byte: a route, and a MAC
RELAYS = {4: ip_address("10.20.0.1"), 6: ip_address("fd00:20::1")}
BACKENDS = {4: ip_address("10.20.0.10"), 6: ip_address("fd00:20::10")}
FIRST_RELAY_PORT = 40000  # of the first flow
UFRAGS = (b"T0000001x", b"lax", b"open", b"laxopen", b"v4", b"none", b"u" * 32, b"unknown")
PACKETS_MAX = 14


def signed(message: bytes, ufrag: bytes | None = None) -> bytes:
    """A request's attributes up to MESSAGE-INTEGRITY, for another ufrag, signed by the world's pwd."""
    kept: list[stun.Attribute] = []
    for kind, value in _attributes(message):
        if kind == stun.MESSAGE_INTEGRITY:
            break
        if kind == stun.USERNAME and ufrag is not None:
            value = ufrag + b":" + value.partition(b":")[2]
        kept.append((kind, value))
    raw = message[:20] + b"".join(stun.attribute(*one) for one in kept)
    return stun.with_fingerprint(stun.with_integrity(raw, PWD))


def _attributes(message: bytes) -> Iterator[stun.Attribute]:
    at = stun.HEADER_BYTES
    while at < len(message):
        kind, size = (int.from_bytes(message[at + part : at + part + 2], "big") for part in (0, 2))
        yield kind, message[at + 4 : at + 4 + size]
        at += 4 + size + -size % 4


def is_request(payload: bytes) -> bool:
    return payload[:2] == b"\0\1"


def captured(path: Path) -> list[Datagram]:
    """The beginning of a call: not all of its requests, and only some media."""
    datagrams = [parse(frame) for frame in pcap.frames(path)]
    kinds: dict[tuple[int, bool], list[Datagram]] = {}
    for datagram in datagrams:
        kinds.setdefault((datagram.payload[0] >> 4, datagram.dst == VIPS[4]), []).append(datagram)
    chosen = [one for of_kind in kinds.values() for one in of_kind[:4]]
    return sorted(chosen, key=datagrams.index)[:PACKETS_MAX]


def moved(datagram: Datagram, version: int, ufrag: bytes | None) -> tuple[int, bytes]:
    """The link that a captured packet comes by in the fuzzed world (0: the clients'), and the frame."""
    up = datagram.dst == VIPS[4]
    source, target = (CLIENTS, VIPS) if up else (BACKENDS, RELAYS)
    payload = datagram.payload
    moved = replace(
        datagram,
        src=source[version],
        dst=target[version],
        sport=50000 if up else 5000,
        dport=3478 if up else FIRST_RELAY_PORT,
        payload=signed(payload, ufrag) if up and is_request(payload) else payload,
    )
    return (0 if up else 1), moved.frame()


def write(folder: Path, content: bytes) -> None:
    """By its hash, as libFuzzer names files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / hashlib.sha1(content).hexdigest()).write_bytes(content)


def make(root: Path) -> None:
    for path in sorted(CAPTURES.glob("*.pcap")):
        datagrams = captured(path)
        for version in (4, 6):
            for ufrag in (None, *UFRAGS):
                frames = [moved(datagram, version, ufrag) for datagram in datagrams]
                packets = b"".join(
                    bytes([link]) + len(frame).to_bytes(2, "big") + frame for link, frame in frames
                )
                write(root / "packets", packets)
        for datagram in datagrams:
            if not is_request(datagram.payload):
                continue
            for choice in range(8):  # family; what the target signs
                for ufrag in (None, *UFRAGS):
                    write(root / "stun", bytes([choice]) + signed(datagram.payload, ufrag))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
