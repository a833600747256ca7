# SPDX-License-Identifier: Apache-2.0
"""Which of its relays a transceiver is attached to, where relays share a directory: one of each, at a time.

A transceiver has one stream in a directory: a later one ends the earlier one, wherever that is. So relays
that say the same of their directory (`Welcome.directories`) have one place between them. The others stand by:
they are looked at now and then, and take the place as soon as it is free. It is free when the stream of who
has it breaks; and whoever takes no sessions gives it up to one that does. A place that is had is not given
back to whoever had it before.

Each transceiver has an order of its own among the relays, so that many spread over them, also when one dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol

# How often a relay that stands by is looked at; its VIPs are told to clients meanwhile.
LOOK_SECONDS = 5.0
# So long others wait for one that comes before them and has not answered.
HEAD_START = 0.3


class Candidate(Protocol):
    """A relay, as far as it matters here."""

    @property
    def name(self) -> str:
        """The same at each start."""

    @property
    def shares(self) -> frozenset[str]:
        """What it says of its directory; nothing where it has none."""

    @property
    def fit(self) -> bool:
        """Whether it takes new sessions, as far as is known."""

    def make_way(self) -> None:
        """Its attachment has to end: another one is to have its place."""


class Places:
    """Of one transceiver."""

    def __init__(self, transceiver: str) -> None:
        """`transceiver`: its name, from which its order follows."""
        self._transceiver = transceiver
        self._taken: dict[Candidate, None] = {}
        self._line: dict[Candidate, bool] = {}  # who would have one, and whether it has answered
        self._changed = asyncio.Event()

    def holder(self, one: Candidate) -> Candidate | None:
        """Who has the place that a relay stands by for, or has itself."""
        if one in self._taken:
            return one
        return next((other for other in self._taken if other.shares & one.shares), None)

    def stands_by(self, one: Candidate) -> bool:
        """Whether it has answered, and another one has its place."""
        return self._line.get(one, False) and self.holder(one) is not None

    def is_near(self, one: Candidate) -> bool:
        """Whether it has answered, and has its place, or stands by for it."""
        return one in self._taken or self._line.get(one, False)

    @asynccontextmanager
    async def taken(
        self, one: Candidate, look: Callable[[], Awaitable[None]], waiting: Callable[[], None]
    ) -> AsyncIterator[None]:
        """Waits for its place, which is its own in the block, and free after it.

        Args:
            one: the relay.
            look: asks it what it shares, and whether it is there; raises if it is not.
            waiting: called when it begins to stand by.
        """
        self._line[one] = False
        try:
            await look()
            self._line[one] = True
            self.reconsider()
            patient, stands = True, False
            while True:
                if self.holder(one) is not None:
                    if not stands:
                        waiting()
                    patient = stands = True
                    await self._change(LOOK_SECONDS * random.uniform(0.8, 1.2), lambda: not self.holder(one))
                elif patient and self._is_behind(one):
                    patient = False
                    await self._change(HEAD_START, lambda: self.holder(one) or not self._is_behind(one))
                else:
                    break
                await look()
                self.reconsider()
            del self._line[one]
            self._taken[one] = None
            self._wake()
            yield
        finally:
            self._line.pop(one, None)
            self._taken.pop(one, None)
            self._wake()

    def reconsider(self) -> None:
        """Whoever takes no sessions makes way for one of its directory that does; to be called on news."""
        for holder in list(self._taken):
            if holder.fit:
                continue
            if any(
                answered and other.fit and other.shares & holder.shares
                for other, answered in self._line.items()
            ):
                holder.make_way()

    def _is_behind(self, one: Candidate) -> bool:
        """Whether another one that may have the same place comes before it."""
        if not one.shares:
            return False
        rank = self._rank(one)
        return any(
            self._rank(other) < rank and (not answered or other.shares & one.shares)
            for other, answered in self._line.items()
            if other is not one
        )

    def _rank(self, one: Candidate) -> tuple[bool, bytes]:
        return not one.fit, hashlib.sha256(f"{self._transceiver}\0{one.name}".encode()).digest()

    async def _change(self, seconds: float, until: Callable[[], object]) -> None:
        """Returns when it is so, or after so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not until():
                    changed = self._changed
                    await changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
