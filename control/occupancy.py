# SPDX-License-Identifier: Apache-2.0
"""How full the relay's tables are, and when an operator has to hear of it: before calls are refused."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from control import abi, port_states
from control.datapath import Datapath
from control.logs import event
from control.port_states import Counts
from control.sessions import Registry

FILLING = 0.7  # from here on it is said,
RELIEVED = 0.6  # and from here down that it is over

_log = logging.getLogger(__name__)


class Table(NamedTuple):
    """One table: what is used of what there is."""

    name: str
    used: int
    capacity: int

    @property
    def ratio(self) -> float:
        return self.used / self.capacity if self.capacity else 0.0


def measure(
    datapath: Datapath, registry: Registry, max_sessions: int, ports: Counts | None = None
) -> list[Table]:
    """All tables that can refuse something. Flows of both families have relay ports of their own.

    `ports` for who has counted them already.
    """
    tables = []
    # Each relay address has an equal part of the records; a record that rests is not free, and one
    # that is left at an address that is not served any more takes no room from anybody.
    layout = datapath.layout
    counts = port_states.count(datapath) if ports is None else ports
    taken = layout.span - counts[:, abi.FlowState.FREE]
    for version in (4, 6):
        ours = [
            relay.version == version and number in datapath.serving
            for number, relay in enumerate(datapath.relays[: layout.relays])
        ]
        if any(ours):
            tables.append(Table(f"flows_ipv{version}", int(taken[ours].sum()), layout.span * sum(ours)))
    return [
        *tables,
        Table("sessions", registry.ufrag_count(), max_sessions),
        Table("backends", registry.backend_count(), len(datapath.backends) - 1),
        Table("hops", int(np.count_nonzero(datapath.hops["ifindex"])), abi.HOP_MAX - 1),
        Table("transceivers", len(registry.owners()), abi.OWNER_MAX),
    ]


class Watch:
    """Says once when a table fills up, and once when it is relieved; in between it keeps quiet."""

    def __init__(self) -> None:
        self._filling: set[str] = set()

    def look(self, tables: Iterable[Table]) -> None:
        for table in tables:
            if table.name in self._filling:
                if table.ratio < RELIEVED:
                    self._filling.discard(table.name)
                    _say(logging.INFO, "table_relieved", table)
            elif table.ratio >= FILLING:
                self._filling.add(table.name)
                _say(logging.WARNING, "table_filling", table)


def _say(level: int, name: str, table: Table) -> None:
    percent = round(100 * table.ratio)
    event(_log, level, name, table=table.name, used=table.used, capacity=table.capacity, percent=percent)
