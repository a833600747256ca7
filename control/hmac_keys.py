# SPDX-License-Identifier: Apache-2.0
"""HMAC-SHA1 key states of ice-pwds, many at a time.

An HMAC (RFC 2104) begins with one SHA-1 block of the key xor 0x36.. (inner) and one of the key
xor 0x5c.. (outer). The XDP program is given the two states after those blocks, so that it spends
no time on them, and so that no map holds a pwd. hashlib does not export its inner state, and the
compression function (FIPS 180-4, 6.1.2) in plain Python takes 90 us a pwd; here each of its steps
is done for a whole batch by numpy. 50,000 pwds took 0.03 s on one core of a 2-core machine:

    python -m timeit -n 3 -s "from control.hmac_keys import key_states" \\
        "key_states([b'%024d' % n for n in range(50000)])"
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 64
STATE_WORDS = 5

_INITIAL = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0)
_ROUND_CONSTANTS = (0x5A827999, 0x6ED9EBA1, 0x8F1BBCDC, 0xCA62C1D6)
# Keys at a time: the working set (some 25 arrays of that many words) stays in the second-level cache.
_CHUNK = 4096

Words = NDArray[np.uint32]


def key_states(keys: Sequence[bytes]) -> tuple[Words, Words]:
    """The inner and the outer state of each key, as two arrays of shape (len(keys), 5) of native words."""
    inner = np.empty((len(keys), STATE_WORDS), np.uint32)
    outer = np.empty((len(keys), STATE_WORDS), np.uint32)
    for start in range(0, len(keys), _CHUNK):
        part = keys[start : start + _CHUNK]
        end = start + len(part)
        blocks = _key_blocks(part)
        both = _compress(np.concatenate((blocks ^ np.uint8(0x36), blocks ^ np.uint8(0x5C))), _INITIAL)
        inner[start:end], outer[start:end] = both[: len(part)], both[len(part) :]
    return inner, outer


def hmac_sha1(inner: Words, outer: Words, message: bytes) -> bytes:
    """The HMAC of a message, of a key of which there are the two states alone."""
    first = _finish(inner, message)
    return _finish(outer, first.astype(">u4").tobytes()).astype(">u4").tobytes()


def _finish(state: Words, message: bytes) -> Words:
    """The SHA-1 state after a key's block and a message behind it, padded (FIPS 180-4, 5.1.1)."""
    bits = 8 * (BLOCK_BYTES + len(message))
    padded = message + b"\x80" + bytes(-(len(message) + 9) % BLOCK_BYTES) + bits.to_bytes(8, "big")
    for start in range(0, len(padded), BLOCK_BYTES):
        block = np.frombuffer(padded[start : start + BLOCK_BYTES], np.uint8).reshape(1, BLOCK_BYTES)
        state = _compress(block, state.tolist())[0]
    return state


def _key_blocks(keys: Sequence[bytes]) -> NDArray[np.uint8]:
    """Each key as one block, padded with zeros; a longer key is hashed first (RFC 2104, 2)."""
    short = (key if len(key) <= BLOCK_BYTES else hashlib.sha1(key).digest() for key in keys)
    padded = b"".join(key.ljust(BLOCK_BYTES, b"\0") for key in short)
    return np.frombuffer(padded, np.uint8).reshape(len(keys), BLOCK_BYTES)


def _compress(blocks: NDArray[np.uint8], before: Sequence[int]) -> Words:
    """The SHA-1 state after one more block each."""
    schedule: list[Words] = list(blocks.view(">u4").astype(np.uint32).T.copy())
    for t in range(16, 80):
        mixed = schedule[t - 3] ^ schedule[t - 8]
        mixed ^= schedule[t - 14]
        mixed ^= schedule[t - 16]
        schedule.append(_rotated_left(mixed, 1))
    a, b, c, d, e = (np.full(len(blocks), word, np.uint32) for word in before)
    for t, word in enumerate(schedule):
        if t < 20:
            mixed = d ^ (b & (c ^ d))
        elif 40 <= t < 60:
            mixed = (b & c) | (d & (b | c))
        else:
            mixed = b ^ c ^ d
        mixed += _rotated_left(a, 5)
        mixed += e
        mixed += word
        mixed += np.uint32(_ROUND_CONSTANTS[t // 20])
        a, b, c, d, e = mixed, a, _rotated_left(b, 30), c, d
    state = np.stack((a, b, c, d, e), axis=1)
    state += np.array(before, np.uint32)
    return state


def _rotated_left(words: Words, bits: int) -> Words:
    rotated = words << np.uint32(bits)
    rotated |= words >> np.uint32(32 - bits)
    return rotated
