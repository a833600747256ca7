# SPDX-License-Identifier: Apache-2.0
"""ICE as a relayed endpoint needs it: it answers checks and sends none (as RFC 8445's lite agents).

A packet sent to an address that the client named would go past the relay. So the only peer ever sent to
is one that an authenticated check came from, which behind a relay is the relay. The first such check is
enough (RFC 8445, 8.1.1 would wait for USE-CANDIDATE), and the local candidates are the relay's VIPs.
"""

from __future__ import annotations

import asyncio
import secrets
import string
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from ipaddress import ip_address
from typing import Any

import aioice
from aioice.candidate import candidate_foundation, candidate_priority
from aioice.ice import CandidatePair

from transceiver.media import Endpoint, MediaPorts, MediaProtocol, Route

COMPONENT = 1  # RTP and RTCP share it
UFRAG_LENGTH = 8  # 47 random bits; RFC 8445, 5.3 asks for 24
PWD_LENGTH = 32  # 190 random bits; 128 are asked for
ROAM_AFTER = 0.5  # seconds of silence from the peer's old address before a check from a new one is followed

_ALPHABET = string.ascii_letters + string.digits


class MediaLink:
    """A call's handle on its own ICE connection, which aiortc makes deep inside."""

    def __init__(self, ports: MediaPorts, routes: Sequence[Route]) -> None:
        self.ports = ports
        self.routes = routes
        self.connection: LiteConnection | None = None
        self.heard_at = asyncio.get_running_loop().time()

    def heard(self) -> None:
        """The client proved that it is there: by an authenticated check, or by media that decrypted."""
        self.heard_at = asyncio.get_running_loop().time()

    @property
    def endpoints(self) -> list[Endpoint]:
        """Where the relay is to send, one per family; empty before gathering."""
        return [protocol.endpoint for protocol in self.connection.protocols] if self.connection else []


_link: ContextVar[MediaLink] = ContextVar("link")


@contextmanager
def linked(link: MediaLink) -> Iterator[None]:
    """Connections made inside belong to this link."""
    token = _link.set(link)
    try:
        yield
    finally:
        _link.reset(token)


class LiteConnection(aioice.Connection):  # type: ignore[misc]  # aioice is untyped to mypy
    """Stands in for aioice's connection under aiortc; made inside `linked`."""

    def __init__(self, **arguments: Any) -> None:
        if arguments.get("local_username") is None:
            arguments["local_username"] = _random(UFRAG_LENGTH)
            arguments["local_password"] = _random(PWD_LENGTH)
        super().__init__(**arguments)
        self._link = _link.get()
        self._link.connection = self
        self._settled = asyncio.Event()
        self._peer_seen = 0.0
        self.protocols: list[MediaProtocol] = []

    async def gather_candidates(self) -> None:
        """Opens the call's sockets; the candidates are the VIPs that stand for them.

        Raises `OSError` if there is no socket to be had.
        """
        for route in self._link.routes:
            protocol = await self._link.ports.open(self, route)
            self.protocols.append(protocol)
            self._protocols.append(protocol)
            protocol.local_candidate = _candidate(route.vip, "host")
            self._local_candidates.append(protocol.local_candidate)
        self._local_candidates_end = True

    async def connect(self) -> None:
        """Waits for the first authenticated check; the caller limits how long, by `close`."""
        if not self._local_candidates_end or self.remote_username is None or self.remote_password is None:
            raise ConnectionError("candidates or credentials are missing")
        self._early_checks_done = True
        for check in self._early_checks:
            self.check_incoming(*check)
        self._early_checks.clear()
        await self._settled.wait()
        if not self._nominated:
            raise ConnectionError("closed before a check came")

    async def close(self) -> None:
        """Closes the sockets, and ends `connect` if it still waits."""
        await super().close()
        self._settled.set()

    def check_incoming(self, message: Any, addr: tuple[str, int], protocol: MediaProtocol) -> None:
        """An authenticated check: the peer is there, and perhaps somewhere new.

        Not every client repeats USE-CANDIDATE when it moves, so silence at the old address counts too.
        """
        self._link.heard()
        now = asyncio.get_running_loop().time()
        pair = self._nominated.get(COMPONENT)
        if pair is not None and pair.remote_addr == addr and pair.protocol is protocol:
            self._peer_seen = now
        elif pair is None or "USE-CANDIDATE" in message.attributes or now - self._peer_seen > ROAM_AFTER:
            candidate = _candidate(Endpoint(ip_address(addr[0]), addr[1]), "prflx")
            self._nominated[COMPONENT] = CandidatePair(protocol, candidate)
            self._peer_seen = now
            self._settled.set()

    def media_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """A datagram that is not STUN: for DTLS or SRTP if it comes from the peer."""
        pair = self._nominated.get(COMPONENT)
        if pair is not None and pair.remote_addr == addr:
            self._peer_seen = asyncio.get_running_loop().time()
            super().data_received(data, COMPONENT)

    def data_received(self, data: bytes, component: int) -> None:
        """What began like STUN and is none: dropped."""


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def _candidate(endpoint: Endpoint, kind: str) -> aioice.Candidate:
    """IPv6 comes first where there is a choice (RFC 8421, 4)."""
    host = str(endpoint.address)
    preference = 65535 if ":" in host else 65534
    return aioice.Candidate(
        foundation=candidate_foundation(kind, "udp", host),
        component=COMPONENT,
        transport="udp",
        priority=candidate_priority(COMPONENT, kind, preference),
        host=host,
        port=endpoint.port,
        type=kind,
    )
