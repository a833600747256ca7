# SPDX-License-Identifier: Apache-2.0
"""STUN messages (RFC 8489) as rules 2.4 and 3.3 to 3.6 look at them."""

from __future__ import annotations

import hashlib
import hmac
import zlib
from dataclasses import dataclass

from tests.model.verdict import Decided
from tests.model.wire import number

HEADER_BYTES = 20
MESSAGE_MAX = 4095
COOKIE = bytes.fromhex("2112a442")
BINDING_REQUEST, BINDING_SUCCESS = 0x0001, 0x0101
USERNAME, MESSAGE_INTEGRITY, FINGERPRINT = 0x0006, 0x0008, 0x8028
ATTRIBUTES_MAX = 15
USERNAME_MAX = 512
UFRAG_MAX = 32
INTEGRITY_BYTES, FINGERPRINT_BYTES = 20, 4
FINGERPRINT_XOR = 0x5354554E


@dataclass(frozen=True)
class Attribute:
    at: int  # of its header, from the start of the message
    kind: int
    value: bytes

    @property
    def end(self) -> int:
        """Where the next one begins."""
        return self.at + 4 + (len(self.value) + 3) // 4 * 4


@dataclass(frozen=True)
class Request:
    """What counts of a Binding Request."""

    raw: bytes
    username: bytes
    integrity: Attribute | None
    fingerprint: Attribute | None


def is_stun(payload: bytes) -> bool:
    """RFC 7983, 7."""
    return payload[0] <= 3


def check_header(message: bytes) -> None:
    """2.4."""
    if len(message) < HEADER_BYTES:
        raise Decided("drop_stun_short")
    if message[4:8] != COOKIE:
        raise Decided("drop_stun_cookie")
    length = number(message, 2)
    if length % 4 or length != len(message) - HEADER_BYTES or len(message) > MESSAGE_MAX:
        raise Decided("drop_stun_length")


def kind(message: bytes) -> int:
    return number(message, 0)


def transaction(message: bytes) -> bytes:
    return message[8:20]


def read_request(message: bytes) -> Request:
    """3.3."""
    attributes = _attributes(message)
    integrity = next(
        (one for one in attributes if one.kind == MESSAGE_INTEGRITY and len(one.value) == INTEGRITY_BYTES),
        None,
    )
    until = integrity.at if integrity else len(message)
    username = next((one for one in attributes if one.kind == USERNAME and one.at < until), None)
    if username is None:
        raise Decided("drop_stun_no_username")
    if not username.value:
        raise Decided("drop_stun_username_empty")
    if len(username.value) > USERNAME_MAX:
        raise Decided("drop_stun_username_too_long")
    last = attributes[-1]
    is_fingerprint = last.kind == FINGERPRINT and len(last.value) == FINGERPRINT_BYTES
    return Request(message, username.value, integrity, last if is_fingerprint else None)


def _attributes(message: bytes) -> list[Attribute]:
    """All of them (RFC 8489, 14), whether they mean anything or not."""
    found: list[Attribute] = []
    at = HEADER_BYTES
    while at < len(message):
        if len(found) == ATTRIBUTES_MAX:
            raise Decided("drop_stun_too_many_attributes")
        length = number(message, at + 2)
        if at + 4 + length > len(message):
            raise Decided("drop_stun_attribute")
        found.append(Attribute(at, number(message, at), message[at + 4 : at + 4 + length]))
        at = found[-1].end
    return found


def server_ufrag(username: bytes) -> bytes:
    """3.4: RFC 8445, 7.2.2: what is before the colon is the ufrag of who is asked."""
    colon = username[: UFRAG_MAX + 1].find(b":")
    if colon < 0 or 0 in username[:colon]:
        raise Decided("drop_stun_username_no_colon")
    return username[:colon]


def fingerprint_holds(request: Request) -> bool:
    """RFC 8489, 14.7: the CRC-32 of the message up to the attribute, which is the last."""
    assert request.fingerprint is not None
    crc = zlib.crc32(request.raw[: request.fingerprint.at])
    return request.fingerprint.value == (crc ^ FINGERPRINT_XOR).to_bytes(4, "big")


def integrity_holds(request: Request, pwd: bytes) -> bool:
    """RFC 8489, 14.5: HMAC-SHA1 up to the attribute, by a header whose length ends right behind it."""
    assert request.integrity is not None
    length = request.integrity.end - HEADER_BYTES
    covered = request.raw[:2] + length.to_bytes(2, "big") + request.raw[4 : request.integrity.at]
    return request.integrity.value == hmac.new(pwd, covered, hashlib.sha1).digest()
