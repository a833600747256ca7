# SPDX-License-Identifier: Apache-2.0
"""Which transceiver has which number in the fleet, and where its sessions go: docs/routable-ufrag.md.

A part of the registry, for sessions that are known by their ufrags alone. Like it without I/O and without
a clock; what the maps lack is collected in `Changes`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from control import abi
from control.requests import Code, RequestError


def is_derived(session: int) -> bool:
    """Whether the number of a session says that its ufrag is a routable one."""
    return bool(session >> abi.SESSION_DERIVED_BIT)


class Place(NamedTuple):
    """An entry of fleet_owners_v1, whose backends are acquired."""

    number: int  # of the transceiver in the fleet
    owner: int  # its number here
    backends: tuple[int, int]  # for IPv4, for IPv6 clients


class Places:
    """The entries of fleet_owners_v1: at most one for each transceiver."""

    def __init__(self, changed: Callable[[int, Place | None], None]) -> None:
        """`changed` is told of each entry that has to be written, by the number in the fleet."""
        self._changed = changed
        self._by_number: dict[int, Place] = {}
        self._of_owner: dict[int, Place] = {}
        self._at_backend: dict[int, set[int]] = {}  # owners; nearly always one

    def restore(self, place: Place) -> None:
        """Takes up an entry that stands in the map."""
        self._by_number[place.number] = self._of_owner[place.owner] = place
        for backend in filter(None, place.backends):
            self._at_backend.setdefault(backend, set()).add(place.owner)

    def check(self, number: int, owner: int) -> None:
        """Raises RequestError: INVALID_ARGUMENT, or ALREADY_EXISTS where another transceiver has it."""
        if number >= abi.FLEET_OWNER_MAX:
            raise RequestError(
                Code.INVALID_ARGUMENT,
                f"{number} is not 0 to {abi.FLEET_OWNER_MAX - 1}",
                "hello.routable.number",
            )
        holder = self._by_number.get(number)
        if holder is not None and holder.owner != owner:
            raise RequestError(
                Code.ALREADY_EXISTS, f"{number} belongs to another transceiver", "hello.routable.number"
            )

    def put(self, place: Place) -> Place | None:
        """Enters a place, which has been checked; returns the one that its transceiver had before."""
        before = self.remove(place.owner)
        self.restore(place)
        self._changed(place.number, place)
        return before

    def remove(self, owner: int) -> Place | None:
        """Returns the place that a transceiver had."""
        before = self._of_owner.pop(owner, None)
        if before is not None:
            del self._by_number[before.number]
            for backend in filter(None, before.backends):
                self._at_backend[backend].discard(owner)
            self._changed(before.number, None)
        return before

    def of(self, owner: int) -> Place | None:
        """The place of a transceiver, by its number here."""
        return self._of_owner.get(owner)

    def serves(self, backend: int) -> bool:
        """Whether sessions that are known by their ufrags alone go to a backend."""
        return bool(self._at_backend.get(backend))

    def owner_at(self, backend: int) -> int | None:
        """The transceiver, by its number here, whose such sessions go to a backend."""
        return next(iter(self._at_backend.get(backend, ())), None)
