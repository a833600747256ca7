# SPDX-License-Identifier: Apache-2.0
"""Who a datagram on a shared port is for: two tables and the rules between them, no I/O.

A request names its session by ufrag. Everything else is told apart by where it comes from, and an address
belongs to the session that last proved itself from there. Each session holds a bounded number of them.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from transceiver.media import Address

ADDRESSES_PER_SESSION = 8  # a client has one for each of its own addresses and ports that it tries

S = TypeVar("S")


class Dispatch(Generic[S]):
    """The sessions of one port, by ufrag and by address."""

    def __init__(self) -> None:
        self._by_ufrag: dict[str, S] = {}
        self._by_address: dict[Address, S] = {}
        self._addresses: dict[S, dict[Address, None]] = {}  # the longest unproven first

    def by_ufrag(self, ufrag: str) -> S | None:
        return self._by_ufrag.get(ufrag)

    def by_address(self, address: Address) -> S | None:
        return self._by_address.get(address)

    def add(self, ufrag: str, session: S) -> None:
        """Requests with this ufrag are the session's; it may have several."""
        self._by_ufrag[ufrag] = session

    def remove(self, ufrag: str) -> None:
        """Requests with this ufrag are nobody's any more. Addresses stay."""
        self._by_ufrag.pop(ufrag, None)

    def learn(self, address: Address, session: S, keep: Address | None = None) -> S | None:
        """The session has proved itself from there; whoever had the address before loses it.

        Where a session has too many, the one that was proved longest ago goes, but never `keep`.
        Returns the session that lost the address, if it was another one's.
        """
        before = self._by_address.get(address)
        if before is not None:
            self._drop(address, before)
        mine = self._addresses.setdefault(session, {})
        if len(mine) >= ADDRESSES_PER_SESSION:
            self._drop(next(known for known in mine if known != keep), session)
        mine[address] = None
        self._by_address[address] = session
        return before if before is not session else None

    def forget(self, session: S) -> None:
        """The session is over: all its addresses go."""
        for address in self._addresses.pop(session, ()):
            del self._by_address[address]

    def __len__(self) -> int:
        """How many addresses are known."""
        return len(self._by_address)

    def _drop(self, address: Address, session: S) -> None:
        del self._by_address[address]
        del self._addresses[session][address]
