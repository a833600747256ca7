# SPDX-License-Identifier: Apache-2.0
"""Which flows are alive, where their packets pass another relay than the one that has bound them.

The owner ends a flow that is idle, and nobody else. So who forwards packets of a foreign flow says so now and
then, by a bit for each port; and foreign flows do not become idle while their relay is there. Without it,
they do, as others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
from numpy.typing import NDArray

from control import abi
from control.addresses import IPAddress
from control.datapath import Datapath
from control.flows import Clock, Numbers
from control.sweep import STATE_MASK

_LIVE = np.uint32(abi.FlowState.LIVE)


class Activity:
    """Of one datapath."""

    def __init__(self, datapath: Datapath) -> None:
        self._datapath = datapath
        self._counted = np.zeros(len(datapath.flows), np.uint32)
        # Flows of ours that others have had packets of.
        self._elsewhere = np.zeros(len(datapath.flows), np.bool_)

    def grow(self) -> None:
        """The table may be larger than it was."""
        more = len(self._datapath.flows) - len(self._counted)
        self._counted = np.concatenate((self._counted, np.zeros(more, np.uint32)))
        self._elsewhere = np.concatenate((self._elsewhere, np.zeros(more, np.bool_)))

    def moved(self) -> Iterator[tuple[IPAddress, bytes]]:
        """Foreign addresses whose flows have had packets since this was last called: a bit for each port."""
        datapath = self._datapath
        for relay, address in sorted(datapath.foreign_relays.items()):
            part = self._part(relay)
            flows = datapath.flows[part]
            packets = flows["up_packets"] + flows["down_packets"]
            live = flows["state"] & STATE_MASK == _LIVE
            moved = live & (packets != self._counted[part]) & (packets > 0)
            self._counted[part] = packets
            if moved.any():
                yield address, np.packbits(moved).tobytes()

    def take(self, address: IPAddress, bits: bytes, now: Clock) -> bool:
        """Somebody has had packets of flows of an address, anybody's. False: it cannot be so."""
        datapath = self._datapath
        relay = next((number for number, one in datapath.present.items() if one == address), None)
        span = datapath.layout.span
        if relay is None or len(bits) != (span + 7) // 8:
            return False
        moved = np.unpackbits(np.frombuffer(bits, np.uint8), count=span).astype(np.bool_)
        numbers = (np.flatnonzero(moved) + relay * span).astype(np.uint32)
        self._elsewhere[numbers] = True
        self._touch(numbers, now)
        return True

    def keep(self, addresses: Collection[IPAddress], now: Clock) -> None:
        """The flows of these foreign addresses are their relay's to end."""
        datapath = self._datapath
        for relay, address in datapath.foreign_relays.items():
            if address in addresses:
                self._touch(datapath.flows_at(relay), now)

    def keep_elsewhere(self, now: Clock) -> None:
        """While nobody can be heard: flows of ours that had packets at others may have them still."""
        datapath = self._datapath
        live = datapath.flows["state"] & STATE_MASK == _LIVE
        self._elsewhere &= live
        self._touch(np.flatnonzero(self._elsewhere).astype(np.uint32), now)

    def _part(self, relay: int) -> slice:
        span = self._datapath.layout.span
        return slice(relay * span, (relay + 1) * span)

    def _touch(self, numbers: Numbers, now: Clock) -> None:
        states: NDArray[np.uint32] = self._datapath.flows["state"][numbers]
        self._datapath.flows["last_seen"][numbers[states & STATE_MASK == _LIVE]] = now.ticks
