# SPDX-License-Identifier: Apache-2.0
"""ICE as a relayed endpoint needs it: it answers checks, and sends none to find a path (as RFC 8445's lite).

A packet sent to an address that the client named would go past the relay. So the only peer ever sent to
is one that an authenticated check came from, which behind a relay is the relay. The first such check is
enough (RFC 8445, 8.1.1 would wait for USE-CANDIDATE), and the local candidates are the relay's VIPs.

On the path that is in use it asks, every few seconds, as full agents do (RFC 7675): not to learn anything
itself, but so that the relay can tell by the client's answer how long the way to it is (docs/quality.md).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from aioice import Candidate, ConnectionClosed
from aioice.candidate import candidate_foundation, candidate_priority

from transceiver import checks
from transceiver.agent import Agent, Credentials
from transceiver.bucket import Bucket
from transceiver.direct import DirectMedia
from transceiver.log import event
from transceiver.media import Drop, Endpoint, Traffic
from transceiver.mux import MediaPort, Path, Route

COMPONENT = 1  # RTP and RTCP share it
INBOX = 500  # datagrams that wait for aiortc; 10 s of speech
RATE = 1000.0  # datagrams a second of a call; speech has 50, and all messages that are taken of a client 700
BURST = 1000.0  # at once
TURN = 8  # datagrams, after which other calls get their turn
# Seconds. The first question waits until a client has enough to do with DTLS.
ASK_AFTER, ASK_EVERY = 1.0, 5.0


class MediaLink:
    """A call's handle on its own ICE connection, which aiortc makes deep inside.

    `renewed` is called when an ICE restart has come to its end: the old credentials hold no more. `fresh`
    makes new ones.
    """

    def __init__(
        self,
        routes: Sequence[Route],
        traffic: Traffic,
        renewed: Callable[[], None],
        fresh: Callable[[], Credentials] = Credentials.fresh,
    ) -> None:
        self.routes = routes
        self.fresh = fresh
        self.traffic = traffic
        self.renewed = renewed
        self.connection: LiteConnection | None = None
        self.heard_at = asyncio.get_running_loop().time()

    def heard(self) -> None:
        """The client proved that it is there: by an authenticated check, or by media that decrypted."""
        self.heard_at = asyncio.get_running_loop().time()

    @property
    def endpoints(self) -> list[Endpoint]:
        """Where the relay is to send, one per family."""
        return list(dict.fromkeys(route.port.endpoint for route in self.routes))


_link: ContextVar[MediaLink] = ContextVar("link")


@contextmanager
def linked(link: MediaLink) -> Iterator[None]:
    """Connections made inside belong to this link."""
    token = _link.set(link)
    try:
        yield
    finally:
        _link.reset(token)


class LiteConnection:
    """Has all of `aioice.Connection` that aiortc uses, and stands in for it; made inside `linked`."""

    # What aiortc sets. A lite agent needs no role, and the rest for questions alone.
    ice_controlling = False
    remote_is_lite = False
    remote_username: str | None = None
    remote_password: str | None = None

    def __init__(self, **_: Any) -> None:
        self._link = _link.get()
        self._link.connection = self
        self._traffic = self._link.traffic
        self._clock = asyncio.get_running_loop().time
        self._agent: Agent[Path] = Agent(self._link.fresh)
        self._budget = Bucket(RATE, BURST, self._clock())
        self._taken = 0
        self._inbox: deque[bytes] = deque(maxlen=INBOX)
        self._arrival = asyncio.Event()
        self._shown = asyncio.Event()  # the client has shown an address
        self._closed = asyncio.Event()
        self._asking: asyncio.TimerHandle | None = None
        self.direct: DirectMedia | None = None  # once there are keys for RTP

    # What aiortc uses.

    @property
    def local_username(self) -> str:
        return self._agent.newest.ufrag

    @property
    def local_password(self) -> str:
        return self._agent.newest.pwd

    @property
    def local_candidates(self) -> list[Candidate]:
        """The VIPs, which stand for the ports behind them."""
        ranks: Counter[MediaPort] = Counter()
        candidates = []
        for port, vip in self._link.routes:
            candidates.append(_candidate(vip, ranks[port]))
            ranks[port] += 1
        return candidates

    @property
    def remote_candidates(self) -> list[Candidate]:
        return []

    async def gather_candidates(self) -> None:
        """From now on requests from the client arrive."""
        for route in self._link.routes:
            route.port.add(self.local_username, self)

    async def add_remote_candidate(self, candidate: Candidate | None) -> None:
        """Ignores it: see the module's text."""

    async def connect(self) -> None:
        """Waits for the first authenticated check; the caller limits how long, by `close`."""
        await self._shown.wait()
        if self._closed.is_set():
            raise ConnectionError("closed before a check came")
        self._ask_in(ASK_AFTER)

    async def recv(self) -> bytes:
        """The next datagram that is not STUN, nor taken by `direct`. Raises `ConnectionError` once closed."""
        while not self._inbox and not self._closed.is_set():
            self._arrival.clear()
            await self._arrival.wait()
        self._taken += 1
        if self._taken % TURN == 0:  # aiortc asks again and again, for as long as something waits
            await asyncio.sleep(0)
        if self._closed.is_set():
            raise ConnectionError("closed")
        return self._inbox.popleft()

    async def send(self, data: bytes) -> None:
        """Sends on the path in use. Raises `ConnectionError` once closed."""
        if self._closed.is_set():
            raise ConnectionError("closed")
        path = self._agent.path
        if path is None:
            self._traffic.drops[Drop.NO_PATH] += 1
        else:
            path.port.send(data, path.address)

    async def get_event(self) -> ConnectionClosed:
        """Returns when it is closed, the only thing that happens to it."""
        await self._closed.wait()
        return ConnectionClosed()

    async def close(self) -> None:
        """Leaves the ports, and ends whatever waits."""
        for route in self._link.routes:
            for held in self._agent.credentials:
                route.port.remove(held.ufrag)
            route.port.forget(self)
        if self._asking is not None:
            self._asking.cancel()
        self._closed.set()
        self._shown.set()
        self._arrival.set()

    # What the call uses, and what `library` fits into aiortc.

    def proved(self) -> None:
        """The client has sent something that was decrypted."""
        self._link.heard()

    @property
    def credentials(self) -> tuple[Credentials, ...]:
        """Ours that hold: those in use, then those of an ICE restart that is under way."""
        return self._agent.credentials

    def restart(self) -> None:
        """Begins an ICE restart: from now on `local_username` and `local_password` are new ones."""
        before = self._agent.credentials
        self._agent.restart()
        self._register(before)

    def withdraw(self) -> None:
        """Undoes `restart`."""
        before = self._agent.credentials
        self._agent.withdraw()
        self._register(before)

    def follow_client(self, client: Credentials) -> None:
        """The client has these credentials now."""
        self.remote_username, self.remote_password = client.ufrag, client.pwd

    # What the ports use.

    def request_received(self, request: Any, path: Path) -> None:
        """Answers, and if the request is authentic, learns from it (`mux.Session`)."""
        if not self._affords():
            return
        ufrag = checks.ufrag_of(request)
        pwd = self._agent.pwd_of(ufrag)
        assert pwd is not None, "a port has a ufrag that the agent has given up"
        error = checks.fault(request, pwd)
        if error is not None:
            path.port.send(checks.refusal(request, error, pwd), path.address)
            return
        in_use = self._agent.path
        path.port.learn(path.address, self, in_use.address if in_use and in_use.port is path.port else None)
        path.port.send(checks.success(request, path.address, pwd), path.address)
        self._link.heard()
        self._agent.checked(ufrag, path, checks.nominates(request), self._clock())
        self._shown.set()

    def media_received(self, data: bytes, path: Path) -> None:
        """Hands it to aiortc (`mux.Session`); DTLS and SRTP say whether it is the client's."""
        if not self._affords():
            return
        given_up = self._agent.heard(path, self._clock())
        if given_up is not None:
            for route in self._link.routes:
                route.port.remove(given_up.ufrag)
            self._link.renewed()
        if self._taken_directly(data):
            return
        if len(self._inbox) == INBOX:
            self._traffic.drops[Drop.INBOX_FULL] += 1
        self._inbox.append(data)
        self._arrival.set()

    def _taken_directly(self, data: bytes) -> bool:
        if self.direct is None:
            return False
        try:
            return self.direct.take(data)
        # aiortc raises all kinds of things at what it cannot read. All calls' packets come through here, so
        # whatever it is, it costs this packet alone.
        except Exception as error:  # noqa: BLE001
            self._traffic.drops[Drop.MALFORMED] += 1
            event(logging.INFO, "rtp_refused", detail=f"{type(error).__name__}: {error}")
            return True

    def path_lost(self, path: Path) -> None:
        """Nothing more goes there (`mux.Session`)."""
        self._agent.lost(path)

    def _affords(self) -> bool:
        """Whether the call may take a datagram now. What it may not is dropped before it costs much."""
        if self._budget.takes(self._clock()):
            return True
        self._traffic.drops[Drop.TOO_MANY] += 1
        return False

    def _ask_in(self, seconds: float) -> None:
        """Not all calls at once, nor in step with anything (RFC 7675, 5.1)."""
        loop = asyncio.get_running_loop()
        self._asking = loop.call_later(seconds * random.uniform(0.8, 1.2), self._ask)

    def _ask(self) -> None:
        path = self._agent.path
        if path is not None and self.remote_username and self.remote_password:
            question = checks.question(self.remote_username, self.local_username, self.remote_password)
            path.port.send(question, path.address)
        self._ask_in(ASK_EVERY)

    def _register(self, before: Sequence[Credentials]) -> None:
        """Tells the ports which ufrags are ours now, unless all has ended meanwhile."""
        if self._closed.is_set():
            return
        for route in self._link.routes:
            for held in before:
                route.port.remove(held.ufrag)
            for held in self._agent.credentials:
                route.port.add(held.ufrag, self)


def _candidate(vip: Endpoint, rank: int) -> Candidate:
    """The `rank`-th of its family, the nearest being 0; of the same rank IPv6 comes first (RFC 8421, 4).

    No two of a call have the same preference (RFC 8445, 5.1.2.1).
    """
    host = str(vip.address)
    preference = 65535 - 2 * rank - (0 if vip.address.version == 6 else 1)
    return Candidate(
        foundation=candidate_foundation("host", "udp", host),
        component=COMPONENT,
        transport="udp",
        priority=candidate_priority(COMPONENT, "host", preference),
        host=host,
        port=vip.port,
        type="host",
    )
