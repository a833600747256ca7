# SPDX-License-Identifier: Apache-2.0
"""Sessions and transceivers as they stand in the maps, without what is secret in them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from control import abi
from control.cli import cells
from control.cli.fields import Chunk, Lists, Texts, json_of
from control.cli.fields import Numbers as Count
from control.cli.output import Row
from control.flows import Clock
from control.records import owners_of

Records = NDArray[np.void]
Numbers = NDArray[np.uint32]
_CHUNK = 4096


class SessionMaps(Protocol):
    """What of the datapath it takes."""

    @property
    def backends(self) -> Records: ...
    def read_sessions(self) -> tuple[Records, Records]: ...
    def read_owners(self) -> Records: ...


class SessionTable:
    """One reading of sessions_v1 and owners_v1.

    Attributes:
        numbers: of the sessions, rising. A session's position in it is what methods here call one.
        owners: numbers and names of the transceivers.
        ufrags: how many entries sessions_v1 holds.
    """

    def __init__(self, maps: SessionMaps) -> None:
        keys, values = maps.read_sessions()
        order = np.lexsort((keys["ufrag"], values["number"]))
        self._ufrags, self._values = keys["ufrag"][order], values[order]
        # A session has an entry for each of its ufrags, all alike but for the key states.
        self.numbers, self._first, self._entries = np.unique(
            self._values["number"], return_index=True, return_counts=True
        )
        self.ufrags = len(keys)
        self._owner_records = maps.read_owners()
        self.owners = owners_of(self._owner_records)
        self._owner_names = dict(self.owners)
        self._backends = maps.backends

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
        positions = np.minimum(np.searchsorted(self.numbers, numbers), len(self.numbers) - 1)
        owners = self._values["owner"][self._first[positions]].astype(np.int64)
        found: NDArray[np.int64] = places[np.where(self.numbers[positions] == numbers, owners, abi.OWNER_MAX)]
        return found

    def of_transceiver(self, name: str) -> NDArray[np.intp]:
        """Positions of a transceiver's sessions."""
        owners = [number for number, known in self.owners if known == name]
        return np.flatnonzero(np.isin(self._values["owner"][self._first], owners))

    def all(self) -> NDArray[np.intp]:
        return np.arange(len(self.numbers))

    # ---- description -----------------------------------------------------------------------

    def named(self, numbers: Numbers) -> tuple[Texts, Texts]:
        """Transceiver and id of sessions by number: nothing where a session is gone."""
        if not len(self.numbers):
            nothing = Texts(np.zeros((len(numbers), 1), np.uint8), np.zeros(len(numbers), np.bool_))
            return nothing, nothing
        positions = np.minimum(np.searchsorted(self.numbers, numbers), len(self.numbers) - 1)
        known = self.numbers[positions] == numbers
        entries = self._first[positions]
        owners = self._values["owner"][entries]
        names = self._owner_records["name"][np.minimum(owners, len(self._owner_records) - 1)]
        return (
            Texts(cells.raw(names), known & (names != b"")),
            Texts(cells.raw(self._values["id"][entries]), known),
        )

    def chunks(self, positions: NDArray[np.intp], flows: dict[int, int], now: Clock) -> Iterator[Chunk]:
        """Sessions as JSON shows them, some thousands at a time.

        `flows`: how many live ones each has, by session number.
        """
        for start in range(0, len(positions), _CHUNK):
            chunk = positions[start : start + _CHUNK]
            first, entries = self._first[chunk], self._entries[chunk]
            values = self._values[first]
            backends = self._backends[values["backend"]]
            transceiver, session_id = self.named(values["number"])
            expires = values["expires"]
            yield {
                "session_id": session_id,
                "transceiver": transceiver,
                "ufrags": Lists([self._ufrag(first, entries, at) for at in range(int(entries.max()))]),
                "endpoints": Lists(
                    [
                        Texts(
                            cells.endpoints(backends["addr"][:, at], backends["port"][:, at]),
                            values["backend"][:, at] != 0,
                        )
                        for at in range(backends.shape[1])
                    ]
                ),
                "ttl_seconds": Count(np.maximum(0, (expires - now.seconds).astype(np.int64)), expires != 0),
                "flows": Count(np.array([flows.get(number, 0) for number in values["number"].tolist()])),
                "has_pwd": Count((values["flags"] & abi.SessionFlag.HAS_PWD) != 0),
            }

    def _ufrag(self, first: NDArray[np.intp], entries: NDArray[np.intp], at: int) -> Texts:
        """Of sessions by their first entries: the ufrags of that place."""
        there = entries > at
        return Texts(cells.raw(self._ufrags[first + np.where(there, at, 0)]), there)

    def rows(self, positions: NDArray[np.intp], flows: dict[int, int], now: Clock) -> Iterator[Row]:
        """The same as objects, for where there are few."""
        for chunk in self.chunks(positions, flows, now):
            yield from json.loads(b"[" + json_of(chunk) + b"]")

    def transceiver_rows(self, flows: dict[int, int], now: Clock) -> Iterator[Row]:
        """Transceivers as JSON shows them."""
        owner_of_session = self._values["owner"][self._first]
        live = np.array([flows.get(number, 0) for number in self.numbers.tolist()], np.int64)
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
