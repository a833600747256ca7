# SPDX-License-Identifier: Apache-2.0
"""STUN messages (RFC 8489) in plain Python."""

from __future__ import annotations

import hmac
import struct
import zlib
from collections.abc import Iterator, Sequence

COOKIE = 0x2112A442
HEADER_BYTES = 20
TRANSACTION = b"transaction!"

REQUEST, INDICATION, RESPONSE, ERROR = 0x0001, 0x0011, 0x0101, 0x0111
GOOG_PING = 0x0200

USERNAME, MESSAGE_INTEGRITY, FINGERPRINT = 0x0006, 0x0008, 0x8028
PRIORITY, USE_CANDIDATE, ICE_CONTROLLING, SOFTWARE = 0x0024, 0x0025, 0x802A, 0x8022

Attribute = tuple[int, bytes]


def header(kind: int, length: int, *, cookie: int = COOKIE, transaction: bytes = TRANSACTION) -> bytes:
    return struct.pack("!HHI", kind, length, cookie) + transaction


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("!HH", kind, len(value)) + value + bytes(-len(value) % 4)


def message(
    kind: int,
    attributes: Sequence[Attribute] = (),
    *,
    cookie: int = COOKIE,
    transaction: bytes = TRANSACTION,
) -> bytes:
    body = b"".join(attribute(*one) for one in attributes)
    return header(kind, len(body), cookie=cookie, transaction=transaction) + body


def with_length(raw: bytes, length: int) -> bytes:
    """The message with another length in its header."""
    return raw[:2] + struct.pack("!H", length) + raw[4:]


def with_attribute(raw: bytes, kind: int, value: bytes) -> bytes:
    """The message with one more attribute at its end."""
    longer = raw + attribute(kind, value)
    return with_length(longer, len(longer) - HEADER_BYTES)


def integrity_of(raw: bytes, pwd: bytes) -> bytes:
    """MESSAGE-INTEGRITY's value behind these bytes (RFC 8489, 14.5), by a length that includes it."""
    return hmac.digest(pwd, with_length(raw, len(raw) - HEADER_BYTES + 24), "sha1")


def fingerprint_of(raw: bytes) -> bytes:
    """FINGERPRINT's value behind these bytes (RFC 8489, 14.7)."""
    return struct.pack("!I", zlib.crc32(with_length(raw, len(raw) - HEADER_BYTES + 8)) ^ 0x5354554E)


def with_integrity(raw: bytes, pwd: bytes) -> bytes:
    return with_attribute(raw, MESSAGE_INTEGRITY, integrity_of(raw, pwd))


def with_fingerprint(raw: bytes) -> bytes:
    return with_attribute(raw, FINGERPRINT, fingerprint_of(raw))


def signed(raw: bytes, pwd: bytes | None) -> bytes:
    """The message as who knows the pwd ends it; None: a pwd that is not known here."""
    return with_fingerprint(with_integrity(raw, b"known-to-others-alone" if pwd is None else pwd))


def request(
    username: bytes,
    pwd: bytes | None,
    *,
    before: Sequence[Attribute] = (),
    after: Sequence[Attribute] = (),
    transaction: bytes = TRANSACTION,
) -> bytes:
    """A Binding Request as an ICE agent sends it, with attributes before and after USERNAME."""
    usual = [(ICE_CONTROLLING, b"tiebreak"), (PRIORITY, bytes(4))]
    attributes = [*before, (USERNAME, username), *usual, *after]
    return signed(message(REQUEST, attributes, transaction=transaction), pwd)


def attributes(raw: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Where each attribute of a well-formed message begins, its kind, and its value."""
    offset = HEADER_BYTES
    while offset < len(raw):
        kind, size = struct.unpack_from("!HH", raw, offset)
        yield offset, kind, raw[offset + 4 : offset + 4 + size]
        offset += 4 + size + -size % 4


def username(raw: bytes) -> bytes | None:
    """The first USERNAME of a well-formed message."""
    return next((value for _, kind, value in attributes(raw) if kind == USERNAME), None)


def holds(raw: bytes, pwd: bytes) -> bool:
    """Whether the message has a MESSAGE-INTEGRITY of this pwd, and a FINGERPRINT at its end."""
    found = {kind: (offset, value) for offset, kind, value in attributes(raw)}
    integrity, fingerprint = found.get(MESSAGE_INTEGRITY), found.get(FINGERPRINT)
    if integrity is None or fingerprint is None or fingerprint[0] != len(raw) - 8:
        return False
    return (
        integrity_of(raw[: integrity[0]], pwd) == integrity[1]
        and fingerprint_of(raw[: fingerprint[0]]) == fingerprint[1]
    )
