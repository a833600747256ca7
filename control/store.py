# SPDX-License-Identifier: Apache-2.0
"""Keeps the maps where the registry is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from control import abi
from control.datapath import Datapath
from control.flows import Clock
from control.model import Changes, Session
from control.reaper import Reaper
from control.records import (
    backends_of,
    owner_record,
    owners_of,
    places_of,
    session_records,
    sessions_of,
    ufrag_keys,
    write_backends,
    write_places,
)
from control.sessions import Registry


class Store:
    """The thin shell around the registry that writes its changes to the maps."""

    def __init__(self, datapath: Datapath, registry: Registry, reaper: Reaper) -> None:
        self._datapath = datapath
        self._registry = registry
        self._reaper = reaper

    def restore(self, clock: Callable[[], Clock]) -> None:
        """At start: takes up what a former daemon left in the maps."""
        now = clock()
        keys, values = self._datapath.read_sessions()
        numbers = np.concatenate((values["number"], self._datapath.flows["session"]))
        counted = numbers[numbers >> abi.SESSION_DERIVED_BIT == 0]  # others follow from ufrags
        self._registry.restore(
            owners_of(self._datapath.read_owners()),
            backends_of(self._datapath.backends),
            sessions_of(keys, values, now.seconds),
            places_of(self._datapath.fleet_owners),
            int(counted.max(initial=0)),
            now.seconds,
        )
        self._reaper.adopt(clock)
        self.commit(clock())
        self._reaper.scan(clock())

    def commit(self, now: Clock) -> list[Session]:
        """Brings the maps to where the registry is; returns sessions that had to be dropped again.

        The registry counts, so a full map is no surprise, unless someone else writes to it.
        """
        unstored = self._apply(self._registry.take_changes(), now)
        if not unstored:
            return []
        dropped = self._registry.drop(unstored, now.seconds)
        self._apply(self._registry.take_changes(), now)
        return dropped

    def _apply(self, changes: Changes, now: Clock) -> list[str]:
        """Writes to the maps; returns the ufrags for which there was no room.

        Backends come before the sessions that name them, deletions before what needs their room,
        and flows are ended when no packet can find their session any more.
        """
        if changes.backends:
            write_backends(self._datapath.backends, list(changes.backends.values()), changes.hops)
        for number, owner in changes.owners.items():
            self._datapath.put_owner(number, owner_record(owner))
        # A place that is left before its flows end, one that is taken when its backends are there.
        write_places(self._datapath.fleet_owners, changes.places)
        gone = [ufrag for ufrag, session in changes.entries.items() if session is None]
        if gone:
            self._datapath.delete_sessions(ufrag_keys(gone))
        entries = {ufrag: session for ufrag, session in changes.entries.items() if session is not None}
        stored = self._datapath.put_sessions(*session_records(entries)) if entries else 0
        self._reaper.end_sessions(changes.ended, now)
        self._reaper.end_places(changes.left, now)
        return list(entries)[stored:]
