# SPDX-License-Identifier: Apache-2.0
"""What goes over from maps that do not fit any more into new ones, and how: the one place that knows.

A map does not fit where the configuration wants another size, or where the program wants another
layout, which has another version in its name. Sizes may change of sessions, backends and the flow table.
Who changes a layout adds the former one to `FORMER`: the pin's name, the dtype that it had, and how today's
records are made of it. Everything else about an upgrade is in control/staging.py, and why in docs/adr.

The maps of the flow table go over together or not at all. Of these, only the records are carried: the index
is made anew, and what is free follows from what is not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from control import abi, flow_index, former_quality
from control.datapath import STATE_MASK, Datapath
from control.former_tables import FormerTable, RingTable, ShiftTable
from control.layout import Layout
from control.libbpf import Array
from control.maps import DType, HashMap, MappedArray

FLOWS, BACKENDS, SESSIONS = "flows_v2", "backends_v1", "sessions_v1"
QUALITY, QUALITY_MORE = "quality_v2", "quality_more_v1"
# None of them is of use without the others of the same table.
TABLE = frozenset({FLOWS, "flow_index_v2", "free_flows_v2", "free_lists_v1", "layout_v1"})
# Those that stay as large as they are when fewer entries are wanted.
MAY_BE_LARGER = frozenset({SESSIONS, BACKENDS})

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
        table: of flows, how they were numbered.
    """

    name: str
    value: DType
    convert: Callable[[Array], Array] = _as_it_is
    table: Callable[[Path, str, DType], FormerTable] = RingTable


# By the name that a map has today.
FORMER: dict[str, Former] = {FLOWS: Former("flows_v1", abi.FLOW, table=ShiftTable)}
FORMER |= {
    QUALITY: Former(former_quality.NAME, former_quality.RECORD, former_quality.first_streams),
    QUALITY_MORE: Former(former_quality.NAME, former_quality.RECORD, former_quality.all_else),
}
# Maps of former layouts from which nothing is carried.
LEFT_BEHIND = frozenset(
    {
        "flow_index_v1",
        "free_flows4_v1",
        "free_flows6_v1",
        "locals_v1",
        "scratch_v1",
        "scratch_v2",
        "sources_v1",
    }
)
# Counters by reason, of which there are more in some versions than in others: they begin again at zero.
BEGUN_AGAIN = frozenset({"reasons_v1"})
_TODAY = {
    FLOWS: Former(FLOWS, abi.FLOW),
    BACKENDS: Former(BACKENDS, abi.BACKEND),
    SESSIONS: Former(SESSIONS, abi.SESSION),
    QUALITY: Former(QUALITY, abi.QUALITY),
    QUALITY_MORE: Former(QUALITY_MORE, abi.QUALITY_MORE),
}

# All that the configuration sizes: in other sizes they are filled from what is there.
SIZED = TABLE | frozenset(_TODAY)


def obsolete() -> set[str]:
    """Pins of former layouts: nobody needs them once today's are there."""
    return {one.name for one in FORMER.values()} | LEFT_BEHIND


def origins(name: str) -> list[Former]:
    """What a map that does not fit, or is not there, may be filled from, by preference."""
    return [origin for origin in (_TODAY.get(name), FORMER.get(name)) if origin is not None]


class Flows:
    """The flow table that is there, and how today's records are made of it."""

    def __init__(self, origin: Former, table: FormerTable) -> None:
        self.origin = origin
        self.table = table

    @classmethod
    def find(cls, pin_path: Path) -> Flows | None:
        """None: there is none, or one that its maker died over, and that no packet has come to."""
        for origin in origins(FLOWS):
            try:
                table = origin.table(pin_path, origin.name, origin.value)
            except FileNotFoundError:
                continue
            if table.ports[1]:
                return cls(origin, table)
            table.close()
        return None

    def close(self) -> None:
        self.table.close()


class Carrier:
    """Fills a new datapath. Nobody else writes to maps that only the daemon changes meanwhile."""

    def __init__(
        self,
        fds: Mapping[str, tuple[Former, int]],
        flows: Flows | None,
        datapath: Datapath,
        layout: Layout,
        serving: Collection[int] = (),
    ) -> None:
        """
        Args:
            fds: former maps, by today's names.
            flows: None where the flow table stays.
            serving: the relay addresses, by number, at which new flows will be bound.
        """
        self._fds = fds
        self._datapath = datapath
        self._flows = flows
        self._layout = layout
        self._serving = serving
        if flows is not None:
            self._numbers = flows.table.numbers_in(layout)
            self._entered = np.zeros(len(self._numbers), np.bool_)

    def carry_all(self) -> None:
        """Before the program runs: all that there is, and in the end what is free.

        Raises:
            DatapathError: new flows could not be kept away from the old table.
        """
        for name, (before, fd) in self._fds.items():
            if name == BACKENDS:
                _carry_array(fd, before, self._datapath.backends)
            elif name in (QUALITY, QUALITY_MORE):
                to = self._datapath.quality if name == QUALITY else self._datapath.quality_more
                _carry_array(fd, before, to)
                # What the old program counts from here on is not seen: numbers begin anew, nothing was lost.
                to["streams"]["highest"] += np.uint16(1 << 15)
            else:
                keys, values = HashMap(fd, abi.UFRAG_KEY, before.value).read()
                self._datapath.put_sessions(keys, before.convert(values))
        if self._flows is not None:
            self._copy_flows()  # nearly all of them, while the old table takes new ones
            self._flows.table.take_free()
            self._copy_flows()
            self._datapath.lay_out(self._layout, self._serving)

    def give_up(self) -> None:
        """The old table takes new flows again."""
        if self._flows is not None:
            self._flows.table.give_free()

    def carry_changes(self) -> None:
        """When no link has the old program any more: what that has done to flows since. May be repeated."""
        if self._flows is None:
            return
        old, new = self._flows.table.records, self._datapath.flows
        held = np.flatnonzero(np.isin(old["state"] & STATE_MASK, _HELD))
        numbers = self._numbers[held]
        before, now = old["state"][held], new["state"][numbers]
        same = before >> abi.FLOW_STATE_BITS == now >> abi.FLOW_STATE_BITS
        confirmed = (
            same
            & (before & STATE_MASK == abi.FlowState.LIVE)
            & (now & STATE_MASK == abi.FlowState.PROVISIONAL)
        )
        overtaken = (
            same & (before & STATE_MASK == abi.FlowState.SUPERSEDED) & np.isin(now & STATE_MASK, _INDEXED)
        )
        # In this order: at no time a client leads nowhere.
        records = self._flows.origin.convert(old[held[confirmed]])
        for name in ("up_packets", "down_packets", "up_bytes", "down_bytes", "last_seen"):
            new[name][numbers[confirmed]] = records[name]
        new["state"][numbers[confirmed]] = before[confirmed]
        new["state"][numbers[overtaken]] = before[overtaken]

    def _copy_flows(self) -> None:
        """All records as they are now, and those into the index that were not there yet."""
        assert self._flows is not None
        old = self._flows.table.records
        held = np.flatnonzero(np.isin(old["state"] & STATE_MASK, _HELD))
        records = self._flows.origin.convert(old[held])
        self._datapath.flows[self._numbers[held]] = records
        fresh = np.isin(records["state"] & STATE_MASK, _INDEXED) & ~self._entered[held]
        flow_index.enter(self._datapath.index, self._datapath.flows, self._numbers[held[fresh]], self._layout)
        self._entered[held[fresh]] = True


def _carry_array(fd: int, before: Former, to: Array) -> None:
    """As many of the entries as there are in both."""
    old = MappedArray(fd, before.value, writable=False)
    size = min(old.entries, len(to))
    to[:size] = before.convert(old.array[:size])
    old.close()
