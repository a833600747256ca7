# SPDX-License-Identifier: Apache-2.0
"""Which flows and backends go by which next hop, as the maps have it, and how they are moved to another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from control import abi
from control.addresses import IPAddress, from_bytes, to_bytes
from control.datapath import Datapath
from control.routes import Asked
from control.sweep import STATE_MASK, STRETCH

_CLIENT = np.dtype([("address", "V16"), ("vip", "=u2"), ("hop", "=u2")])


def hops_in_use(datapath: Datapath) -> frozenset[int]:
    """The numbers of hops that a flow or a registered backend refers to."""
    used = np.zeros(1 << 16, np.bool_)  # by any 16-bit number
    for start in range(0, len(datapath.flows), STRETCH):
        flows = datapath.flows[start : start + STRETCH]
        used[flows["client_hop"][(flows["state"] & STATE_MASK) != abi.FlowState.FREE]] = True
    used[datapath.backends["hop"][datapath.backends["users"] > 0]] = True
    return frozenset(np.flatnonzero(used).tolist())


@dataclass(frozen=True)
class Clients:
    """The clients of live flows, each once for each VIP that it uses and hop that it is reached by.

    Attributes:
        hops: the number of the hop of each.
    """

    hops: list[int]
    _clients: NDArray[np.void]
    _vips: list[IPAddress]
    _flows: NDArray[np.uint32]  # records,
    _states: NDArray[np.uint32]  # their state words when they were read,
    _client_of: NDArray[np.intp]  # and the client of each

    @classmethod
    def read(cls, datapath: Datapath) -> Clients:
        states = datapath.flows["state"].copy()
        held = np.isin(states & STATE_MASK, (abi.FlowState.LIVE, abi.FlowState.PROVISIONAL))
        numbers = np.flatnonzero(held).astype(np.uint32)
        records = np.zeros(len(numbers), _CLIENT)
        records["address"] = datapath.flows["client_addr"][numbers]
        records["vip"] = datapath.flows["vip"][numbers]
        records["hop"] = datapath.flows["client_hop"][numbers]
        unique, client_of = np.unique(records.view(f"V{_CLIENT.itemsize}"), return_inverse=True)
        clients = unique.view(_CLIENT)
        vips = [vip.address for vip in datapath.vips]
        return cls(clients["hop"].tolist(), clients, vips, numbers, states[numbers], client_of)

    def asked(self, start: int, stop: int) -> list[Asked]:
        """What to ask the kernel about some of them, by position."""
        part = self._clients[start:stop]
        return [
            Asked(from_bytes(bytes(address)), self._vips[vip] if vip < len(self._vips) else None)
            for address, vip in zip(part["address"], part["vip"].tolist(), strict=True)
        ]

    def move(self, datapath: Datapath, moves: Mapping[int, int]) -> int:
        """Gives clients, by their position, other hops; returns how many flows have moved.

        A flow that was bound anew since it was read is left alone: it knows better.
        """
        if not moves:
            return 0
        target = np.zeros(len(self.hops), np.uint16)
        target[list(moves)] = list(moves.values())
        moving = target[self._client_of] != 0
        numbers, states = self._flows[moving], self._states[moving]
        targets = target[self._client_of][moving]
        before = np.array(self.hops, np.uint16)[self._client_of][moving]
        same = (datapath.flows["state"][numbers] == states) & (
            datapath.flows["client_hop"][numbers] == before
        )
        datapath.flows["client_hop"][numbers[same]] = targets[same]
        return int(np.count_nonzero(same))


def backends_in_use(datapath: Datapath) -> list[tuple[Asked, int]]:
    """The addresses of registered backends, each with the hop by which it is reached."""
    used = datapath.backends["users"] > 0
    records = np.zeros(int(np.count_nonzero(used)), _CLIENT)
    records["address"], records["hop"] = datapath.backends["addr"][used], datapath.backends["hop"][used]
    unique = np.unique(records.view(f"V{_CLIENT.itemsize}")).view(_CLIENT)
    return [(Asked(from_bytes(bytes(one["address"]))), int(one["hop"])) for one in unique]


def move_backends(datapath: Datapath, to: Asked, hop: int) -> int:
    """Gives all backends of an address another hop; returns how many there are."""
    towards = np.flatnonzero(datapath.backends["addr"] == np.void(to_bytes(to.destination)))
    datapath.backends["hop"][towards] = hop
    return len(towards)
