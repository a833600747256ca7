# SPDX-License-Identifier: Apache-2.0
"""STUN messages (RFC 8489) in plain Python."""

from __future__ import annotations

import hmac
import struct
import zlib
from collections.abc import Sequence

COOKIE = 0x2112A442
HEADER_BYTES = 20
TRANSACTION = b"transaction!"

REQUEST, INDICATION, RESPONSE, ERROR = 0x0001, 0x0011, 0x0101, 0x0111
GOOG_PING = 0x0200

USERNAME, MESSAGE_INTEGRITY, FINGERPRINT = 0x0006, 0x0008, 0x8028
PRIORITY, USE_CANDIDATE, ICE_CONTROLLING, SOFTWARE = 0x0024, 0x0025, 0x802A, 0x8022

Attribute = tuple[int, bytes]


def header(kind: int, length: int, *, cookie: int = COOKIE) -> bytes:
    return struct.pack("!HHI", kind, length, cookie) + TRANSACTION


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("!HH", kind, len(value)) + value + bytes(-len(value) % 4)


def message(kind: int, attributes: Sequence[Attribute] = (), *, cookie: int = COOKIE) -> bytes:
    body = b"".join(attribute(*one) for one in attributes)
    return header(kind, len(body), cookie=cookie) + body


def with_length(raw: bytes, length: int) -> bytes:
    """The message with another length in its header."""
    return raw[:2] + struct.pack("!H", length) + raw[4:]


def with_integrity(raw: bytes, pwd: bytes) -> bytes:
    """The message with MESSAGE-INTEGRITY (RFC 8489, 14.5): over all before it, by the length after it."""
    covered = with_length(raw, len(raw) - HEADER_BYTES + 24)
    return covered + attribute(MESSAGE_INTEGRITY, hmac.digest(pwd, covered, "sha1"))


def with_fingerprint(raw: bytes) -> bytes:
    """The message with FINGERPRINT (RFC 8489, 14.7)."""
    covered = with_length(raw, len(raw) - HEADER_BYTES + 8)
    return covered + attribute(FINGERPRINT, struct.pack("!I", zlib.crc32(covered) ^ 0x5354554E))


def request(
    username: bytes, pwd: bytes, *, before: Sequence[Attribute] = (), after: Sequence[Attribute] = ()
) -> bytes:
    """A Binding Request as an ICE agent sends it, with attributes before and after USERNAME."""
    usual = [(ICE_CONTROLLING, b"tiebreak"), (PRIORITY, bytes(4))]
    raw = message(REQUEST, [*before, (USERNAME, username), *usual, *after])
    return with_fingerprint(with_integrity(raw, pwd))


def username(raw: bytes) -> bytes | None:
    """The first USERNAME of a well-formed message."""
    offset = HEADER_BYTES
    while offset < len(raw):
        kind, size = struct.unpack_from("!HH", raw, offset)
        if kind == USERNAME:
            return raw[offset + 4 : offset + 4 + size]
        offset += 4 + size + -size % 4
    return None
