# SPDX-License-Identifier: Apache-2.0
"""Keeps a transceiver attached to its relay, and its sessions registered there.

After every (re)connection the relay gets the full snapshot, so nothing has to be remembered while it is
away: an operation then fails at once, and calls go on. Sessions have no time to live of their own; they
live as long as the stream, and the relay's grace period after it. Where it is one of several, it is asked
first whether it shares a directory with another one, and waits for its place if so (transceiver/places.py).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from ipaddress import ip_address
from typing import Any

import grpc
import grpc.aio
from earshot.relay.v1 import relay_pb2 as pb
from earshot.relay.v1 import relay_pb2_grpc

from telemetry.tracing import Role, Tracing, metadata_of
from transceiver.errors import RefusedError, RelayAwayError
from transceiver.log import event
from transceiver.media import Endpoint
from transceiver.places import Candidate, Places
from transceiver.relay_stream import RelayStream
from transceiver.relay_target import RelayTarget

BACKOFF_FIRST = 0.1
BACKOFF_MOST = 5.0
LOOK_SECONDS = 5.0  # between two looks at a relay that is attached to, and is one of several
LOOK_TIMEOUT = 5.0  # of the question what a relay shares
# So long a relay that has not answered, or had no room, comes after the others of its directory.
UNFIT_SECONDS = 60.0
_NO_ROOM = (grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], grpc.StatusCode.UNAVAILABLE.value[0])
# Of a relay that does not answer the question: what it shares is not known then, as of one of long ago.
_NOT_TOLD = (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.PERMISSION_DENIED)


class MadeWayError(RelayAwayError):
    """Another relay of the same directory is to be attached to in place of this one."""


class RelayClient:
    """One relay, as a transceiver sees it.

    `snapshot` says which sessions there are, `routable` the transceiver's place in the fleet, `region` where
    it is; `on_flow` gets FlowBound and FlowEnded. None of them may block.

    Attributes:
        target: where the relay is.
        region: where it said that it is, when it was last asked; empty if it did not.
        shares: what it said of its directory; empty where it has none.
    """

    def __init__(
        self,
        target: RelayTarget,
        name: str,
        software: str,
        snapshot: Callable[[], Sequence[pb.Session]],
        on_flow: Callable[[pb.AttachResponse], None],
        routable: Callable[[], pb.Routable | None] = lambda: None,
        tracing: Tracing | None = None,
        region: str = "",
        places: Places | None = None,
    ) -> None:
        """`places`: of this and the other relays, if there are others."""
        self._places = places
        self.shares: frozenset[str] = frozenset()
        self._draining = False
        self._unfit_until = 0.0
        self._routable = routable
        self._own_region = region
        self.target = target
        self.region = ""
        self._name = name
        self._software = software
        self._snapshot = snapshot
        self._on_flow = on_flow
        self._tracing = tracing or Tracing()
        self._stream: RelayStream | None = None
        self._vips: list[Endpoint] = []
        self._attached = asyncio.Event()

    @property
    def attached(self) -> bool:
        """Whether the relay has the snapshot and takes operations."""
        return self._attached.is_set()

    @property
    def name(self) -> str:
        """What tells it from the others."""
        return str(self.target)

    @property
    def stands_for(self) -> Candidate | None:
        """The relay that is attached to in place of this one, which is there and has the same directory."""
        if self._places is None or not self._places.stands_by(self):
            return None
        return self._places.holder(self)

    @property
    def approaching(self) -> bool:
        """Whether it is not attached to, and may be in a moment."""
        return self._places is not None and not self.attached and self._places.is_near(self)

    @property
    def fit(self) -> bool:
        """Whether it takes new sessions, as far as is known."""
        return not self._draining and asyncio.get_running_loop().time() >= self._unfit_until

    def make_way(self) -> None:
        """Ends the attachment, since another relay of its directory is better."""
        if self._stream is not None and self.attached:
            self._stream.end(MadeWayError("it takes no sessions, and another relay of its directory does"))

    @property
    def vips(self) -> list[Endpoint]:
        """What to tell clients: empty until it was attached, or asked."""
        return self._vips

    @property
    def vips_known(self) -> frozenset[Endpoint]:
        """Its VIPs, also while it is away."""
        return frozenset(self._vips)

    async def wait_attached(self) -> None:
        """Returns when attached; the caller sets the deadline."""
        await self._attached.wait()

    async def register(self, session: pb.Session, timeout: float, traceparent: str = "") -> None:
        """Adds a session, as a part of that trace if any. Raises `RelayAwayError` or `RefusedError`."""
        if not self.attached:
            raise RelayAwayError("not attached to a relay")
        await self._submit(pb.Operation(add=session, traceparent=traceparent), timeout)

    async def unregister(self, session_id: str, timeout: float) -> None:
        """Removes a session. Raises `RelayAwayError` or `RefusedError`."""
        await self._submit(pb.Operation(remove=pb.Remove(session_id=session_id)), timeout)

    async def run(self) -> None:
        """Attaches, again and again; runs until cancelled."""
        backoff = BACKOFF_FIRST
        clock = asyncio.get_running_loop().time
        while True:
            started = clock()
            try:
                await self._attach()
            except MadeWayError as error:
                event(logging.INFO, "relay_left", target=self.target, detail=str(error))
            except (grpc.RpcError, RelayAwayError, TimeoutError, asyncio.InvalidStateError) as error:
                detail = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
                event(
                    logging.WARNING, "relay_away", target=self.target, detail=detail or type(error).__name__
                )
            if clock() - started > BACKOFF_MOST:  # a relay that always ends the stream at once is not stormed
                backoff = BACKOFF_FIRST
            await asyncio.sleep(backoff * random.uniform(0.5, 1.0))
            backoff = min(2 * backoff, BACKOFF_MOST)

    async def _attach(self) -> None:
        """One attachment, until it breaks; raises what broke it."""
        async with self.target.channel() as channel:
            stub: Any = relay_pb2_grpc.RelayServiceStub(channel)  # type: ignore[no-untyped-call]
            async with self._place(stub):
                await self._serve(stub)

    def _place(self, stub: Any) -> AbstractAsyncContextManager[None]:
        if self._places is None:
            return nullcontext()
        return self._places.taken(self, lambda: self._look(stub), self._say_standby)

    async def _look(self, stub: Any) -> None:
        """Asks what the relay shares, and whether it is there. Raises `grpc.RpcError`."""
        try:
            said = await stub.ListVips(pb.ListVipsRequest(), timeout=LOOK_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            if error.code() not in _NOT_TOLD:
                raise
            self.shares = frozenset()
            return
        self._learn(said)

    def _learn(self, said: pb.Welcome | pb.ListVipsResponse) -> None:
        self._vips = [_endpoint(vip) for vip in said.vips]
        self.region = said.region
        self.shares = frozenset(said.directories)
        self._draining = said.draining

    def _say_standby(self) -> None:
        event(
            logging.INFO,
            "relay_standby",
            target=self.target,
            region=self.region or "none",
            vips=",".join(map(str, self._vips)),
        )

    async def _serve(self, stub: Any) -> None:
        """The stream, until it breaks."""
        attaching = self._tracing.start("transceiver.attach", role=Role.CLIENT)
        call = stub.Attach(metadata=metadata_of(attaching))
        stream = RelayStream(call, self._on_flow, self._set_draining)
        try:
            welcome = await stream.greet(self._name, self._software, self._routable(), self._own_region)
            self._learn(welcome)
            # From here on removals go to this stream: they are sent after the snapshot, which may
            # still name what they remove.
            self._stream = stream
            sessions = self._snapshot()
            await stream.send_snapshot(sessions)
            self._attached.set()
            self._unfit_until = 0.0
            attaching.end()
            event(
                logging.INFO,
                "relay_attached",
                relay=welcome.relay,
                region=welcome.region or "none",
                vips=",".join(map(str, self._vips)),
                sessions=len(sessions),
            )
            self._reconsider()  # it may have begun to drain meanwhile
            watching = asyncio.create_task(self._watch(stub))
            try:
                await stream.run()
            finally:
                watching.cancel()
        finally:
            attaching.end(error="not attached")
            self._attached.clear()
            self._stream = None
            stream.abandon()
            call.cancel()

    async def _watch(self, stub: Any) -> None:
        """Nobody may ask anything of a relay for long, whose host may be gone: so it is looked at, too."""
        while self._places is not None:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._look(stub)
            except (grpc.RpcError, RelayAwayError):
                self._set_unfit()

    def _set_draining(self, draining: bool) -> None:
        self._draining = draining
        if not draining:
            self._unfit_until = 0.0  # as it has refused then
        self._reconsider()

    def _set_unfit(self) -> None:
        self._unfit_until = asyncio.get_running_loop().time() + UNFIT_SECONDS
        self._reconsider()

    def _reconsider(self) -> None:
        if self._places is not None:
            self._places.reconsider()

    async def _submit(self, operation: pb.Operation, timeout: float) -> None:
        if self._stream is None:
            raise RelayAwayError("not attached to a relay")
        try:
            async with asyncio.timeout(timeout):
                result = await self._stream.submit(operation)
        except TimeoutError:
            self._set_unfit()
            raise RelayAwayError(f"no answer from the relay within {timeout:g} s") from None
        if result.code:
            if result.code in _NO_ROOM:
                self._set_unfit()
            raise RefusedError(result.code, result.message, result.field)


def _endpoint(message: pb.Endpoint) -> Endpoint:
    try:
        return Endpoint(ip_address(message.address), message.port)
    except ValueError:
        raise RelayAwayError(f"the relay named a VIP that is no address: {message.address!r}") from None
