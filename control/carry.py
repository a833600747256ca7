# SPDX-License-Identifier: Apache-2.0
"""What goes over from maps that do not fit any more into new ones, and how: the one place that knows.

A map does not fit where the configuration wants another size, or where the program wants another
layout, which has another version in its name. Sizes may change of what `RESIZABLE` names. Who changes a
layout adds the former one to `FORMER`: the pin's name, the dtype that it had, and how today's records
are made of it. Everything else about an upgrade is in control/staging.py, and why in docs/adr.

Some maps are not carried but made anew: an index leads to the flows that were carried, and what is
free follows from what is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from control import abi
from control.datapath import STATE_MASK, Datapath
from control.libbpf import Array
from control.maps import DType, HashMap, MappedArray

# Maps whose size follows from the configuration.
RESIZABLE = frozenset(
    {"sessions_v1", "backends_v1", "flows_v1", "flow_index_v1", "free_flows4_v1", "free_flows6_v1"}
)
# Those that stay as large as they are when fewer entries are wanted.
MAY_BE_LARGER = frozenset({"sessions_v1", "backends_v1"})
FREE_FLOWS = frozenset({"free_flows4_v1", "free_flows6_v1"})
FLOWS, BACKENDS, SESSIONS = "flows_v1", "backends_v1", "sessions_v1"

_HELD = (abi.FlowState.LIVE, abi.FlowState.PROVISIONAL, abi.FlowState.SUPERSEDED, abi.FlowState.DEAD)
_INDEXED = (abi.FlowState.LIVE, abi.FlowState.PROVISIONAL)


def _as_it_is(records: Array) -> Array:
    return records


@dataclass(frozen=True)
class Former:
    """How a map was before.

    Attributes:
        name: of its pin.
        value: the dtype of its values.
        convert: makes values of today of such. A flow's `state` means the same in both.
    """

    name: str
    value: DType
    convert: Callable[[Array], Array] = _as_it_is


# By the name that a map has today. No layout has changed yet.
FORMER: dict[str, Former] = {}


def former(name: str) -> Former | None:
    """What a map that has no fitting pin is to be filled from; None where there is nothing to carry."""
    if name in FORMER:
        return FORMER[name]
    values = {FLOWS: abi.FLOW, BACKENDS: abi.BACKEND, SESSIONS: abi.SESSION}
    return Former(name, values[name]) if name in values else None


class Carrier:
    """Fills a new datapath from descriptors of former maps, by today's names of these.

    Flows are carried as often as one likes: each time, what has been bound or superseded since.
    """

    def __init__(self, fds: dict[str, int], datapath: Datapath, new: set[str]) -> None:
        """`new`: the maps of the datapath that did not exist before."""
        self._datapath = datapath
        self._fds = fds
        self._new_index = not new.isdisjoint(n for n in RESIZABLE if n.startswith("flow_index"))
        self._flows_name = next((name for name in fds if name.startswith("flows_")), None)
        self._old_flows: MappedArray | None = None
        if self._flows_name is not None:
            before = former(self._flows_name)
            if before is not None:
                self._old_flows = MappedArray(fds[self._flows_name], before.value, writable=False)
                self._convert = before.convert

    def close(self) -> None:
        if self._old_flows is not None:
            self._old_flows.close()

    def carry_all(self) -> None:
        """What only the daemon changes, and so nobody now; and a first time what XDP changes, too."""
        for name, fd in self._fds.items():
            before = former(name)
            if before is None or name == self._flows_name:
                continue
            if name.startswith("backends_"):
                self._carry_backends(fd, before)
            elif name.startswith("sessions_"):
                keys, values = HashMap(fd, abi.UFRAG_KEY, before.value).read()
                self._datapath.put_sessions(keys, before.convert(values))
        self.carry_flows()

    def carry_flows(self) -> int:
        """What differs of flows; returns how many did."""
        if self._old_flows is None:
            if self._new_index:
                self._index(np.flatnonzero(np.isin(self._datapath.states(), _INDEXED)))
            return 0
        old, new = self._old_flows.array, self._datapath.flows
        size = min(len(old), len(new))
        before, now = old["state"][:size].copy(), new["state"][:size].copy()
        fresh = (now == abi.FlowState.FREE) & np.isin(before & STATE_MASK, _HELD)
        # Bound before, and superseded since by a newer record of the old table.
        overtaken = (
            (before >> abi.FLOW_STATE_BITS == now >> abi.FLOW_STATE_BITS)
            & (before & STATE_MASK == abi.FlowState.SUPERSEDED)
            & np.isin(now & STATE_MASK, _INDEXED)
        )
        numbers = np.flatnonzero(overtaken).astype(np.uint32)
        if len(numbers):
            self._datapath.end_flows(numbers)  # out of the index; who scans ends them a second time
        numbers = np.flatnonzero(fresh).astype(np.uint32)
        records = self._convert(old[numbers]).copy()
        states = records["state"].copy()
        # Its state last: until then nobody looks at the rest.
        records["state"] = abi.FlowState.FREE
        new[numbers] = records
        new["state"][numbers] = states
        if self._new_index:
            self._index(numbers[np.isin(states & STATE_MASK, _INDEXED)])
        return len(numbers) + int(np.count_nonzero(overtaken))

    def _index(self, numbers: Array) -> None:
        for number in numbers.tolist():
            self._datapath.claim_index(number)

    def _carry_backends(self, fd: int, before: Former) -> None:
        old = MappedArray(fd, before.value, writable=False)
        size = min(old.entries, len(self._datapath.backends))
        self._datapath.backends[:size] = before.convert(old.array[:size])
        old.close()
