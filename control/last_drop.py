# SPDX-License-Identifier: Apache-2.0
"""Why the last packet of a 5-tuple was dropped: the reading side of bpf/last_drop.h."""

from __future__ import annotations

import sys
import time
from typing import NamedTuple

import numpy as np

from control import abi, libbpf
from control.addresses import Endpoint, to_bytes
from control.datapath import Datapath
from control.flows import FUTURE_TICKS, Clock, milliseconds_of
from control.layout import Layout

_MAP = "last_drops_v1"
_SPREAD = 0x9E3779B97F4A7C15
_32, _64 = (1 << 32) - 1, (1 << 64) - 1


class LastDrop(NamedTuple):
    """The last drop of a 5-tuple that is remembered.

    reason: its name in lower case.
    age_s: seconds since that packet.
    packets: of the 5-tuple, dropped one after the other for this reason, the last one included; not
        counted are those from before another 5-tuple had the place, nor what a CPU drops beyond
        256 in a tick.
    """

    reason: str
    age_s: float
    packets: int


class Place(NamedTuple):
    """Where a 5-tuple's entry is, and what it is known by there."""

    entry: int
    check: int


def place_of(source: Endpoint, destination: Endpoint, layout: Layout) -> Place:
    """The hash of bpf/last_drop.h."""
    key = layout.hash_key
    words = np.frombuffer(to_bytes(source.address) + to_bytes(destination.address), "=u4").tolist()
    mixed = [(word + salt) & _32 for word, salt in zip(words, key, strict=True)]
    ports = int.from_bytes(
        source.port.to_bytes(2, "big") + destination.port.to_bytes(2, "big"), sys.byteorder
    )
    total = sum(mixed[at] * mixed[at + 1] for at in range(0, len(mixed), 2))
    total = (total + (ports + key[2] & _32) * (key[5] | 1)) & _64
    total = (total ^ total >> 32) * _SPREAD & _64
    return Place(total >> 54, total >> 22 & _32 | 1)


def last_drop(
    datapath: Datapath, source: Endpoint, destination: Endpoint, now: Clock | None = None
) -> LastDrop | None:
    """The last packet from source to destination that was dropped; None if there was none of late.

    A client's 5-tuple is its address and the VIP; on the other side, a transceiver's address and the relay's.
    """
    place = place_of(source, destination, datapath.layout)
    cpus = libbpf.possible_cpus()
    fd = datapath.descriptors.get(_MAP)
    if fd is None:
        return None  # maps of another version
    raw = libbpf.lookup(fd, bytes(4), abi.LAST_DROPS.itemsize * cpus)
    entries = np.frombuffer(raw or b"", abi.LAST_DROPS)["entries"][:, place.entry]
    entries = entries[entries["check"] == place.check]
    if not len(entries):
        return None
    ticks = (now or Clock.at(time.monotonic_ns())).ticks
    ages = np.uint32(ticks) - entries["seen"]
    ages[ages > FUTURE_TICKS] = 0
    newest = entries[ages.argmin()]
    of_reason = entries["reason"] == newest["reason"]
    number = int(newest["reason"])
    return LastDrop(
        reason=abi.Reason(number).name.lower(),
        age_s=round(milliseconds_of(int(ages.min())) / 1000, 3),
        packets=int(entries["packets"][of_reason].sum()),
    )


def of_flow(
    datapath: Datapath, client: Endpoint, vip: Endpoint, backend: Endpoint | None, relay: Endpoint
) -> LastDrop | None:
    """The later one of a call's two 5-tuples: client to VIP, and transceiver to relay."""
    now = Clock.at(time.monotonic_ns())
    found = [last_drop(datapath, client, vip, now)]
    if backend is not None:
        found.append(last_drop(datapath, backend, relay, now))
    return min((drop for drop in found if drop is not None), key=lambda drop: drop.age_s, default=None)
