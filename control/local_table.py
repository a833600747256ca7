# SPDX-License-Identifier: Apache-2.0
"""The table by which the program knows the host's own addresses (bpf/local.h): a perfect hash."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping

import numpy as np

from control import abi
from control.addresses import Endpoint, IPAddress, from_bytes, to_bytes
from control.errors import DatapathError
from control.libbpf import Array

_TRIES = 200_000


def slot_of(address: IPAddress, port: int, seed: int) -> int:
    """The slot that bpf/local.h looks in. Port 0 stands for the relay port range."""
    return ((_mix(address, port) * seed) & 0xFFFFFFFF) >> 26


def build(
    vips: Mapping[int, Endpoint], relays: Mapping[int, IPAddress], foreign: Collection[int] = ()
) -> Array:
    """One abi.LOCALS record: VIPs and relay addresses by their numbers; of these, which are another relay's.

    Raises:
        DatapathError: no seed was found (far more addresses than the limits allow).
    """
    entries: dict[tuple[IPAddress, int], tuple[abi.LocalKind, int]] = {}
    for vip in vips.values():
        entries[vip.address, 0] = (abi.LocalKind.OWN, 0)
    for number, address in relays.items():
        entries[address, 0] = (abi.LocalKind.RELAY, number)
    for number, vip in vips.items():
        entries[vip.address, vip.port] = (abi.LocalKind.VIP, number)

    table = np.zeros(1, abi.LOCALS)
    table["seed"] = seed = _find_seed(list(entries))
    for (address, port), (kind, number) in entries.items():
        slot = table["slots"][0][slot_of(address, port, seed)]
        slot["addr"], slot["port"], slot["kind"], slot["number"] = to_bytes(address), port, kind, number
        slot["foreign"] = kind == abi.LocalKind.RELAY and number in foreign
    return table


def relays_in(table: Array) -> dict[int, IPAddress]:
    """The relay addresses of such a record, by their numbers."""
    slots = table["slots"][0]
    return {
        int(slot["number"]): from_bytes(slot["addr"].tobytes())
        for slot in slots[slots["kind"] == abi.LocalKind.RELAY]
    }


def foreign_in(table: Array) -> frozenset[int]:
    """Those of them that are another relay's."""
    slots = table["slots"][0]
    return frozenset(
        slots["number"][(slots["kind"] == abi.LocalKind.RELAY) & (slots["foreign"] > 0)].tolist()
    )


def _find_seed(keys: list[tuple[IPAddress, int]]) -> int:
    # The same arithmetic as slot_of, for a whole batch of seeds at a time.
    mixes = np.array([_mix(address, port) for address, port in keys], np.uint32)
    generator = np.random.default_rng(1)
    for _ in range(_TRIES // 1000):
        seeds = generator.integers(1, 1 << 32, 1000, dtype=np.uint32) | np.uint32(1)
        slots = np.sort((seeds[:, None] * mixes[None, :]) >> np.uint32(26), axis=1)
        perfect = np.flatnonzero((slots[:, 1:] != slots[:, :-1]).all(axis=1))
        if perfect.size:
            return int(seeds[perfect[0]])
    raise DatapathError(f"no perfect hash for {len(keys)} local addresses: configure fewer")


def _mix(address: IPAddress, port: int) -> int:
    words = np.frombuffer(to_bytes(address), "=u4")
    port_word = int.from_bytes(port.to_bytes(2, "big"), sys.byteorder)
    weights = (3, 5, 7, 1)
    return (
        sum(int(word) * weight for word, weight in zip(words, weights, strict=True)) + port_word
    ) & 0xFFFFFFFF
