# SPDX-License-Identifier: Apache-2.0
"""Sessions and transceivers as they stand in the maps, without what is secret in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from control import abi
from control.cli import address_cells, cells
from control.cli.fields import Chunk, Lists, Texts, rows_of
from control.cli.fields import Numbers as Count
from control.cli.output import Row
from control.flows import Clock, in_state
from control.records import owners_of

Records = NDArray[np.void]
Numbers = NDArray[np.uint32]
Column = NDArray[Any]
_CHUNK = 4096


# What is kept of a session; not its key states, which are nobody's business and a third of it.
_KEPT = ("number", "backend", "owner", "flags", "expires", "id")


class SessionMaps(Protocol):
    """What of the datapath it takes."""

    @property
    def backends(self) -> Records: ...
    def session_batches(self) -> Iterator[tuple[Records, Records]]: ...
    def read_owners(self) -> Records: ...


class SessionTable:
    """One reading of sessions_v1 and owners_v1.

    Entries stay in the order in which they were read: putting half a million in another takes longer.

    Attributes:
        numbers: of the sessions, rising. A session's position in it is what methods here call one.
        owners: numbers and names of the transceivers.
        ufrags: how many entries sessions_v1 holds.
    """

    def __init__(self, maps: SessionMaps) -> None:
        ufrags: list[Column] = []
        columns: dict[str, list[Column]] = {name: [] for name in _KEPT}
        for keys, values in maps.session_batches():
            ufrags.append(keys["ufrag"].copy())
            for name, batches in columns.items():
                batches.append(values[name].copy())
        self._ufrags: Column = np.concatenate(ufrags)
        self._values: dict[str, Column] = {name: np.concatenate(columns.pop(name)) for name in _KEPT}
        self.ufrags = len(self._ufrags)
        # A session has an entry for each of its ufrags, all alike but for the key states.
        numbers = self._values["number"]
        packed = numbers.astype(np.uint64) << np.uint64(32) | np.arange(len(numbers), dtype=np.uint64)
        packed.sort()  # several times as fast as argsort
        self._order = (packed & np.uint64(0xFFFFFFFF)).astype(np.intp)
        numbers = (packed >> np.uint64(32)).astype(np.uint32)
        starts = np.flatnonzero(np.append(True, numbers[1:] != numbers[:-1])[: len(numbers)])
        self.numbers, self._starts = numbers[starts], starts
        self._entries = np.diff(starts, append=len(numbers))
        self._sort_ufrags()
        self._owner_records = maps.read_owners()
        self.owners = owners_of(self._owner_records)
        self._backends = maps.backends

    def _sort_ufrags(self) -> None:
        """Within each session, of which few have more than one."""
        several = np.repeat(self._entries > 1, self._entries)
        order = self._order[several]
        self._order[several] = order[
            np.lexsort((self._ufrags[order], self._values["number"][order])) if len(order) else slice(0)
        ]

    def _first(self, positions: Any) -> NDArray[np.intp]:
        """Of sessions: their first entries."""
        return np.asarray(self._order[self._starts[positions]])

    def live_flows(self, flows: Records) -> NDArray[np.intp]:
        """By position: how many live flows of a flow table each session has."""
        sessions = flows["session"][in_state(flows["state"], abi.FlowState.LIVE)]
        positions, known = self._positions(sessions)
        return np.bincount(positions[known], minlength=len(self.numbers))

    def _positions(self, numbers: Numbers) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Of sessions by number; and of which there are any."""
        if not len(self.numbers):
            return np.zeros(len(numbers), np.intp), np.zeros(len(numbers), np.bool_)
        positions = np.minimum(np.searchsorted(self.numbers, numbers), len(self.numbers) - 1)
        return positions, np.asarray(self.numbers[positions] == numbers)

    # ---- selection -------------------------------------------------------------------------

    def find(self, ufrag_or_id: str) -> NDArray[np.intp]:
        """Positions of the sessions that have this ufrag, or this id, which need not be one."""
        wanted = ufrag_or_id.encode()
        hits = (self._ufrags == wanted) | (self._values["id"] == wanted)
        return np.unique(np.searchsorted(self.numbers, self._values["number"][hits]))

    def like(self, part: str) -> NDArray[np.intp]:
        """Positions of the sessions of which an id, a ufrag or the transceiver's name has this in it."""
        wanted = part.encode()
        hits = np.char.find(self._ufrags, wanted) >= 0
        hits |= np.char.find(self._values["id"], wanted) >= 0
        hits |= np.isin(self._values["owner"], [number for number, name in self.owners if part in name])
        return np.unique(np.searchsorted(self.numbers, self._values["number"][hits]))

    def owner_places(self, numbers: Numbers) -> NDArray[np.int64]:
        """Of sessions by number: the place of their transceivers in the order of names, gone ones last."""
        places = np.full(abi.OWNER_MAX + 1, len(self.owners), np.int64)
        for place, (number, _) in enumerate(sorted(self.owners, key=lambda owner: owner[1])):
            places[number] = place
        if not len(self.numbers):
            return np.full(len(numbers), len(self.owners), np.int64)
        positions, known = self._positions(numbers)
        owners = self._values["owner"][self._first(positions)].astype(np.int64)
        found: NDArray[np.int64] = places[np.where(known, owners, abi.OWNER_MAX)]
        return found

    def of_transceiver(self, name: str) -> NDArray[np.intp]:
        """Positions of a transceiver's sessions."""
        owners = [number for number, known in self.owners if known == name]
        return np.flatnonzero(np.isin(self._values["owner"][self._first(slice(None))], owners))

    def all(self) -> NDArray[np.intp]:
        return np.arange(len(self.numbers))

    # ---- description -----------------------------------------------------------------------

    def named(self, numbers: Numbers) -> tuple[Texts, Texts]:
        """Transceiver and id of sessions by number: nothing where a session is gone."""
        if not len(self.numbers):
            nothing = Texts(np.zeros((len(numbers), 1), np.uint8), np.zeros(len(numbers), np.bool_))
            return nothing, nothing
        positions, known = self._positions(numbers)
        entries = self._first(positions)
        owners = self._values["owner"][entries]
        names = self._owner_records["name"][np.minimum(owners, len(self._owner_records) - 1)]
        return (
            Texts(cells.raw(names), known & (names != b"")),
            Texts(cells.raw(self._values["id"][entries]), known),
        )

    def chunks(self, positions: NDArray[np.intp], live: NDArray[np.intp], now: Clock) -> Iterator[Chunk]:
        """Sessions as JSON shows them, some thousands at a time.

        `live`: how many live flows each has, by position.
        """
        for start in range(0, len(positions), _CHUNK):
            chunk = positions[start : start + _CHUNK]
            first, entries = self._first(chunk), self._entries[chunk]
            numbers = self._values["backend"][first]
            backends = self._backends[numbers]
            transceiver, session_id = self.named(self.numbers[chunk])
            expires = self._values["expires"][first]
            yield {
                "session_id": session_id,
                "transceiver": transceiver,
                "ufrags": Lists([self._ufrag(chunk, entries, at) for at in range(int(entries.max()))]),
                "endpoints": Lists(
                    [
                        Texts(
                            address_cells.endpoints(backends["addr"][:, at], backends["port"][:, at]),
                            numbers[:, at] != 0,
                        )
                        for at in range(backends.shape[1])
                    ]
                ),
                "ttl_seconds": Count(np.maximum(0, (expires - now.seconds).astype(np.int64)), expires != 0),
                "flows": Count(live[chunk]),
                "has_pwd": Count((self._values["flags"][first] & abi.SessionFlag.HAS_PWD) != 0),
            }

    def _ufrag(self, positions: NDArray[np.intp], entries: NDArray[np.intp], at: int) -> Texts:
        """Of sessions with so many entries: the ufrags of that place."""
        there = entries > at
        places = self._starts[positions] + np.where(there, at, 0)
        return Texts(cells.raw(self._ufrags[self._order[places]]), there)

    def rows(self, positions: NDArray[np.intp], live: NDArray[np.intp], now: Clock) -> Iterator[Row]:
        """The same as objects, for where there are few."""
        return rows_of(self.chunks(positions, live, now))

    def transceiver_rows(self, live: NDArray[np.intp], now: Clock) -> Iterator[Row]:
        """Transceivers as JSON shows them. `live`: as in chunks()."""
        owner_of_session = self._values["owner"][self._first(slice(None))]
        for number, name in self.owners:
            record: Any = self._owner_records[number]
            own = owner_of_session == number
            yield {
                "transceiver": name,
                "attached": bool(record["attached"]),
                "since_seconds": max(0, int(now.seconds - record["since"])),
                "sessions": int(own.sum()),
                "flows": int(live[own].sum()),
            }
