# SPDX-License-Identifier: Apache-2.0
"""A relay whose maps are of a former layout, for who only looks: flows as today's records, and the rest.

What an upgrade carries over (control/carry.py) can be shown as well, before there was one. The flow table is
a copy here, of the moment in which it was opened, and no mapping.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from control import abi, carry, libbpf
from control.addresses import Endpoint
from control.errors import OtherVersionError
from control.layout import Layout
from control.libbpf import Array
from control.maps import ArrayMap, DType, HashMap
from control.records import relays_of, vips_of

# What flows and sessions are described by. They have not changed since the first version, or are not shown.
_DESCRIBING: dict[str, DType] = {
    "vips_v1": abi.VIP,
    "relays_v1": abi.RELAY,
    "backends_v1": abi.BACKEND,
    "owners_v1": abi.OWNER,
    "sessions_v1": abi.SESSION,
}


class FormerRelay:
    """Its flows, sessions, transceivers and VIPs.

    Attributes:
        flows: today's records, in today's numbering.
        layout: of that.
        backends: by number, as the kernel's map has them.
        vips, relays: by the numbers that flows and records name them with.
    """

    def __init__(self, pin_path: Path) -> None:
        """
        Raises:
            OtherVersionError: there is no flow table that this version knows, or not all that goes with one.
        """
        with ExitStack() as undo:
            found = {name: self._open(pin_path / name, value, undo) for name, value in _DESCRIBING.items()}
            self.vips = vips_of(ArrayMap(found["vips_v1"], abi.VIP).read())
            self.relays = relays_of(ArrayMap(found["relays_v1"], abi.RELAY).read())
            self._owners = ArrayMap(found["owners_v1"], abi.OWNER).read()
            self._sessions = HashMap(found["sessions_v1"], abi.UFRAG_KEY, abi.SESSION)
            self.backends = _read_array(found["backends_v1"], abi.BACKEND)
            self.layout, self.flows = _flows(pin_path)
            self._fds = undo.pop_all()

    @staticmethod
    def _open(pin: Path, value: DType, undo: ExitStack) -> int:
        try:
            fd = libbpf.get_pinned(pin)
        except FileNotFoundError as error:
            raise OtherVersionError(f"{pin.name} is missing") from error
        undo.callback(os.close, fd)
        if libbpf.map_info(fd).value_size != value.itemsize:
            raise OtherVersionError(f"{pin.name} has other values")
        return fd

    def read_owners(self) -> Array:
        return self._owners

    def session_batches(self) -> Iterator[tuple[Array, Array]]:
        return self._sessions.batches()

    def relay_endpoint(self, number: int) -> Endpoint:
        return self.layout.endpoint(number, self.relays)

    def close(self) -> None:
        self._fds.close()


def _flows(pin_path: Path) -> tuple[Layout, Array]:
    before = carry.Flows.find(pin_path)
    if before is None:
        raise OtherVersionError("there is no flow table that this version knows")
    try:
        table = before.table
        layout = Layout(*table.ports, table.relays)
        held = before.origin.convert(table.records.copy())
        flows = np.zeros(layout.records, abi.FLOW)
        used = np.flatnonzero(held["state"])
        flows[table.numbers_in(layout)[used]] = held[used]
        return layout, flows
    finally:
        before.close()


def _read_array(fd: int, value: DType) -> Array:
    """All entries of an array, at once: there are thousands."""
    return np.concatenate(
        [values for _, values in libbpf.iterate_batches(fd, np.dtype("=u4"), value)], dtype=value
    )
