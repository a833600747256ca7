# SPDX-License-Identifier: Apache-2.0
"""Ufrags that say themselves whose they are, as docs/routable-ufrag.md has their format."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import NamedTuple

from tests.model.verdict import Decided

WORD = (1 << 64) - 1
UFRAG = re.compile(rb"[A-Za-z0-9+/]{16}")


class Said(NamedTuple):
    """What a ufrag says, and the pwd that goes with it."""

    owner: int
    session: int  # its number, with the bit above the 31 that are random
    pwd: bytes


def read(ufrag: bytes, keys: Mapping[int, bytes]) -> Said:
    """By the fleet's keys, 32 bytes each, by their numbers."""
    if not UFRAG.fullmatch(ufrag):
        raise Decided("drop_unknown_ufrag")
    raw = base64.b64decode(ufrag)
    bits = int.from_bytes(raw, "big")
    version, number = bits >> 94, bits >> 90 & 15
    if version or number not in keys:
        raise Decided("drop_unknown_ufrag")
    mask_key, pwd_key = (
        hmac.new(keys[number], label, hashlib.sha256).digest()
        for label in (b"earshot ufrag 0 mask", b"earshot ufrag 0 pwd")
    )
    block = bytes(one ^ 0x36 for one in pwd_key + bytes(32))
    digest = hashlib.sha1(block + raw[:8]).digest()
    if digest[:4] != raw[8:]:
        raise Decided("drop_ufrag_forged")
    random = bits >> 32 & (1 << 42) - 1
    owner = bits >> 74 & 0xFFFF ^ siphash(mask_key[:16], random.to_bytes(8, "little")) & 0xFFFF
    return Said(owner, 1 << 31 | random >> 11, base64.b64encode(digest[4:]).rstrip(b"="))


def siphash(key: bytes, message: bytes) -> int:
    """SipHash-2-4 (Aumasson, Bernstein: SipHash: a fast short-input PRF, 2012, section 2)."""
    halves = [int.from_bytes(key[at : at + 8], "little") for at in (0, 8)]
    v = [
        half ^ constant
        for half, constant in zip(
            halves * 2,
            (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573),
            strict=True,
        )
    ]
    whole = len(message) // 8 * 8
    last = message[whole:].ljust(7, b"\0") + bytes([len(message) & 0xFF])
    for block in (*(message[at : at + 8] for at in range(0, whole, 8)), last):
        word = int.from_bytes(block, "little")
        v[3] ^= word
        v = _round(_round(v))
        v[0] ^= word
    v[2] ^= 0xFF
    for _ in range(4):
        v = _round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def _round(v: list[int]) -> list[int]:
    v0, v1, v2, v3 = v
    v0, v2 = v0 + v1 & WORD, v2 + v3 & WORD
    v1, v3 = _left(v1, 13) ^ v0, _left(v3, 16) ^ v2
    v0, v2 = _left(v0, 32), v2
    v2, v0 = v2 + v1 & WORD, v0 + v3 & WORD
    v1, v3 = _left(v1, 17) ^ v2, _left(v3, 21) ^ v0
    return [v0, v1, _left(v2, 32), v3]


def _left(word: int, by: int) -> int:
    return (word << by | word >> 64 - by) & WORD
