# SPDX-License-Identifier: Apache-2.0
"""Key states are right if an HMAC finished from them is what the hmac module says."""

from __future__ import annotations

import hashlib
import hmac
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.hmac_keys import key_states


def compress(state: list[int], block: bytes) -> list[int]:
    """SHA-1's compression function, written down from FIPS 180-4 once more, in plain integers."""

    def rotl(x: int, n: int) -> int:
        return (x << n | x >> (32 - n)) & 0xFFFFFFFF

    w = list(struct.unpack(">16I", block))
    for t in range(16, 80):
        w.append(rotl(w[t - 3] ^ w[t - 8] ^ w[t - 14] ^ w[t - 16], 1))
    a, b, c, d, e = state
    for t in range(80):
        f, k = (
            ((b & c) | (~b & d), 0x5A827999)
            if t < 20
            else (b ^ c ^ d, 0x6ED9EBA1)
            if t < 40
            else ((b & c) | (b & d) | (c & d), 0x8F1BBCDC)
            if t < 60
            else (b ^ c ^ d, 0xCA62C1D6)
        )
        a, b, c, d, e = (rotl(a, 5) + f + e + k + w[t]) & 0xFFFFFFFF, a, rotl(b, 30), c, d
    return [(x + y) & 0xFFFFFFFF for x, y in zip(state, (a, b, c, d, e), strict=True)]


def finish(state: np.ndarray, message: bytes) -> bytes:
    """The SHA-1 of 64 bytes that led to this state, and of the message after them."""
    padded = message + b"\x80" + bytes((55 - len(message)) % 64) + struct.pack(">Q", 8 * (64 + len(message)))
    words = [int(word) for word in state]
    for start in range(0, len(padded), 64):
        words = compress(words, padded[start : start + 64])
    return struct.pack(">5I", *words)


def test_the_tests_own_compression() -> None:
    initial = np.array([0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0])
    after_block = np.array(compress([int(word) for word in initial], b"x" * 64))
    assert finish(after_block, b"abc") == hashlib.sha1(b"x" * 64 + b"abc").digest()


@settings(max_examples=30)
@given(st.lists(st.binary(max_size=256), max_size=8), st.binary(max_size=200))
def test_hmac_from_states(keys: list[bytes], message: bytes) -> None:
    inner, outer = key_states(keys)
    assert inner.shape == outer.shape == (len(keys), 5)
    assert inner.dtype == outer.dtype == np.uint32
    for index, key in enumerate(keys):
        assert finish(outer[index], finish(inner[index], message)) == hmac.digest(key, message, "sha1")


@pytest.mark.parametrize("length", [0, 1, 22, 63, 64, 65, 256])
def test_key_lengths_around_a_block(length: int) -> None:
    key = bytes(range(length)) if length < 256 else b"k" * length
    inner, outer = key_states([key])
    assert finish(outer[0], finish(inner[0], b"message")) == hmac.digest(key, b"message", "sha1")


def test_a_batch_longer_than_a_chunk() -> None:
    keys = [b"%022d" % n for n in range(9000)]
    inner, outer = key_states(keys)
    for index in (0, 4095, 4096, 8191, 8192, 8999):
        alone_inner, alone_outer = key_states([keys[index]])
        assert (inner[index] == alone_inner[0]).all()
        assert (outer[index] == alone_outer[0]).all()
