# SPDX-License-Identifier: Apache-2.0
"""SipHash-2-4, a keyed hash of short messages to 64 bits (Aumasson and Bernstein, 2012)."""

from __future__ import annotations

import struct

_WORD = (1 << 64) - 1


def siphash(key: bytes, message: bytes) -> int:
    """Of a message of any length under a key of 16 bytes."""
    first, second = struct.unpack("<QQ", key)
    state = (
        first ^ 0x736F6D6570736575,
        second ^ 0x646F72616E646F6D,
        first ^ 0x6C7967656E657261,
        second ^ 0x7465646279746573,
    )
    padded = message + bytes(7 - len(message) % 8) + bytes([len(message) % 256])
    for (word,) in struct.iter_unpack("<Q", padded):
        a, b, c, d = state
        a, b, c, d = _rounds(2, a, b, c, d ^ word)
        state = a ^ word, b, c, d
    a, b, c, d = state
    a, b, c, d = _rounds(4, a, b, c ^ 0xFF, d)
    return a ^ b ^ c ^ d


def _rounds(count: int, a: int, b: int, c: int, d: int) -> tuple[int, int, int, int]:
    for _ in range(count):
        a = (a + b) & _WORD
        b = _rotated(b, 13) ^ a
        a = _rotated(a, 32)
        c = (c + d) & _WORD
        d = _rotated(d, 16) ^ c
        a = (a + d) & _WORD
        d = _rotated(d, 21) ^ a
        c = (c + b) & _WORD
        b = _rotated(b, 17) ^ c
        c = _rotated(c, 32)
    return a, b, c, d


def _rotated(word: int, bits: int) -> int:
    return (word << bits | word >> 64 - bits) & _WORD
