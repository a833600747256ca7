# SPDX-License-Identifier: Apache-2.0
"""What translation adds to checksums (RFC 1624), of many flows at once. Words as they stand in memory."""

from __future__ import annotations

import numpy as np

from bench.path.plan import End, Way
from control.libbpf import Array


def deltas(way: Way, flows: Array) -> tuple[Array, Array]:
    """What translation adds to both checksums of each flow's packets, as one's complement sums.

    Of the IP header's without what the TTL adds.
    """
    sums = np.zeros(len(flows), np.uint64)
    ports = np.zeros(len(flows), np.uint64)
    for sent, due in zip(way.sent, way.due, strict=True):
        sums += _address_words(due, flows) + 16 * 0xFFFF - _address_words(sent, flows)
        ports += _port_word(due, flows) + 0xFFFF - _port_word(sent, flows)
    return fold(sums), fold(sums + ports)


def _address_words(end: End, flows: Array) -> Array:
    """Sum of an address's 16-bit words, as they stand in memory."""
    packed = end.address.packed
    last = int.from_bytes(packed[-4:], "big") + (flows & np.uint32(end.address_mask))
    swapped = last.astype(">u4").view("=u2").reshape(-1, 2)
    fixed = int(np.frombuffer(packed[:-4], "=u2").sum(dtype=np.uint64))
    total: Array = swapped.sum(axis=1, dtype=np.uint64) + np.uint64(fixed)
    return total


def _port_word(end: End, flows: Array) -> Array:
    return (end.port + (flows & np.uint32(end.port_mask))).astype(">u2").view("=u2").astype(np.uint64)


def fold(sums: Array) -> Array:
    """16-bit one's complement sums."""
    for _ in range(4):
        sums = (sums & np.uint64(0xFFFF)) + (sums >> np.uint64(16))
    return sums.astype(np.uint16)
