# SPDX-License-Identifier: Apache-2.0
"""Numbers for the places where transceivers receive media, counted by the sessions that name them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from control.addresses import Endpoint

NO_BACKEND = 0


@dataclass(slots=True)
class Backend:
    """One endpoint; `users` counts the sessions that name it. `is_entered`: the map has its endpoint."""

    number: int
    endpoint: Endpoint
    users: int = 0
    is_entered: bool = False


class BackendTable:
    """Which endpoint has which number.

    A number without users is given to another endpoint only after a rest: until the flows of its
    last user are gone for certain, packets of theirs may still look at it.
    """

    def __init__(self, capacity: int, rest_seconds: float, touched: Callable[[Backend], None]) -> None:
        """A table for a map of `capacity` entries; `touched` is told of each one that has to be written."""
        self._capacity = capacity
        self._rest_seconds = rest_seconds
        self._touched = touched
        self._by_number: dict[int, Backend] = {}
        self._by_endpoint: dict[Endpoint, Backend] = {}
        self._resting: dict[int, float] = {}  # since when; in the order in which they came to rest
        self._next_unused = 1

    def __len__(self) -> int:
        return len(self._by_number)

    def __contains__(self, number: int) -> bool:
        return number in self._by_number

    def __getitem__(self, number: int) -> Backend:
        return self._by_number[number]

    def number_at(self, endpoint: Endpoint) -> int | None:
        """The number of an endpoint that is in the table."""
        backend = self._by_endpoint.get(endpoint)
        return None if backend is None else backend.number

    def is_in_use(self, endpoint: Endpoint) -> bool:
        """Whether it has users."""
        backend = self._by_endpoint.get(endpoint)
        return backend is not None and backend.users > 0

    def numbers(self) -> set[int]:
        """All that are in the table."""
        return set(self._by_number)

    def restore(self, backend: Backend, now: float) -> None:
        """Takes up an entry found in the map; it rests until a session names it."""
        self._by_number[backend.number] = backend
        self._by_endpoint[backend.endpoint] = backend
        self._resting[backend.number] = now

    def acquire(self, endpoint: Endpoint, now: float) -> int:
        """One more user of an endpoint; its number, or NO_BACKEND if there is none left to give."""
        backend = self._by_endpoint.get(endpoint)
        if backend is None:
            number = self._free_number(now)
            if number == NO_BACKEND:
                return NO_BACKEND
            backend = Backend(number, endpoint)
            self._by_number[number] = backend
            self._by_endpoint[endpoint] = backend
        self.acquire_number(backend.number)
        return backend.number

    def acquire_number(self, number: int, users: int = 1) -> None:
        """One more user of a number that is in the table, or several."""
        backend = self._by_number[number]
        backend.users += users
        self._resting.pop(number, None)
        self._touched(backend)

    def release(self, number: int, now: float) -> None:
        """One user less."""
        backend = self._by_number[number]
        backend.users -= 1
        if backend.users == 0:
            self._resting[number] = now
        self._touched(backend)

    def _free_number(self, now: float) -> int:
        while self._next_unused < self._capacity:
            number = self._next_unused
            self._next_unused += 1
            if number not in self._by_number:
                return number
        for number, since in self._resting.items():
            if since + self._rest_seconds > now:
                break
            del self._resting[number]
            self._by_endpoint.pop(self._by_number.pop(number).endpoint, None)
            return number
        return NO_BACKEND
