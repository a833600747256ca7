# SPDX-License-Identifier: Apache-2.0
"""Sessions and transceivers as they stand in the maps, without what is secret in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from control import abi
from control.cli.output import Row
from control.flows import Clock
from control.records import backend_endpoint, owners_of

Records = NDArray[np.void]
Numbers = NDArray[np.uint32]


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

    def names(self, numbers: Numbers) -> list[tuple[str | None, str | None]]:
        """Transceiver and id of sessions by number; None where a session is gone."""
        if not len(self.numbers):
            return [(None, None)] * len(numbers)
        positions = np.minimum(np.searchsorted(self.numbers, numbers), len(self.numbers) - 1)
        values = self._values[self._first[positions]]
        known = (self.numbers[positions] == numbers).tolist()
        return [
            (self._owner_names.get(owner), session_id.decode()) if there else (None, None)
            for there, owner, session_id in zip(
                known, values["owner"].tolist(), values["id"].tolist(), strict=True
            )
        ]

    def rows(self, positions: NDArray[np.intp], flows: dict[int, int], now: Clock) -> Iterator[Row]:
        """Sessions as JSON shows them. `flows`: how many live ones each has, by session number."""
        for position in positions.tolist():
            first = self._first[position]
            value: Any = self._values[first]
            ufrags = self._ufrags[first : first + self._entries[position]]
            yield {
                "session_id": value["id"].decode(),
                "transceiver": self._owner_names.get(int(value["owner"])),
                "ufrags": [ufrag.decode() for ufrag in ufrags.tolist()],
                "endpoints": [
                    str(backend_endpoint(self._backends[number]))
                    for number in value["backend"].tolist()
                    if number
                ],
                "ttl_seconds": max(0, int(value["expires"] - now.seconds)) if value["expires"] else None,
                "flows": flows.get(int(value["number"]), 0),
                "has_pwd": bool(value["flags"] & abi.SessionFlag.HAS_PWD),
            }

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
