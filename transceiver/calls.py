# SPDX-License-Identifier: Apache-2.0
"""All calls of the process: set up, watched, ended; and the relay told of each."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from earshot.relay.v1 import relay_pb2 as pb

from telemetry.tracing import Role, Span, Tracing
from transceiver.admission import Admission
from transceiver.agent import Credentials
from transceiver.call import Call, End, State
from transceiver.errors import (
    BusyError,
    OfferError,
    PatchError,
    RefusedError,
    RelayAwayError,
    RelayError,
    TransceiverError,
)
from transceiver.etag import check_if_match
from transceiver.ingresses import Ingresses
from transceiver.log import event
from transceiver.media import Traffic
from transceiver.metrics import Tally
from transceiver.moving import TOLD, Why, move, pause
from transceiver.mux import MediaPort, Route
from transceiver.relays import Relays
from transceiver.routable import Mint
from transceiver.sdpfrag import read_credentials
from transceiver.speech.conversation import Converse


@dataclass(frozen=True)
class Limits:
    """How many calls, how much of a core, and how long things may take (seconds)."""

    calls: int = 1000
    load: float = 0.75
    setups: float = 20.0  # a second
    setup: float = 15.0
    silence: float = 30.0
    relay: float = 5.0
    shutdown: float = 8.0

    @property
    def answer(self) -> float:
        """How long a worker or a peer has to answer a request: what its relay has, and some more."""
        return self.relay + 10.0


class Calls:
    """The calls of this process, by id; an id ends in `suffix`, which names the process."""

    def __init__(
        self,
        relays: Relays,
        ingresses: Ingresses,
        ports: Sequence[MediaPort],
        converse: Converse,
        admission: Admission,
        limits: Limits,
        tally: Tally,
        traffic: Traffic,
        suffix: str,
        tracing: Tracing,
        mint: Mint | None = None,
    ) -> None:
        """`mint` makes routable credentials; without one they are random."""
        self._mint = mint
        self._relays = relays
        self._ingresses = ingresses
        self._ports = ports
        self._converse = converse
        self._admission = admission
        self._limits = limits
        self._tally = tally
        self._traffic = traffic
        self._suffix = suffix
        self._tracing = tracing
        self._calls: dict[str, Call] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def count(self) -> int:
        """How many there are."""
        return len(self._calls)

    def obstacle(self) -> str | None:
        """Why another call would be refused now; None if it would not."""
        return self._admission.obstacle(len(self._calls))

    def states(self) -> Counter[str]:
        """How many calls are in each state."""
        return Counter(call.state for call in self._calls.values())

    def registrations(self) -> list[pb.Session]:
        """What a relay is to know when it is attached anew."""
        return [call.registration() for call in self._calls.values()]

    async def set_up(
        self, offer: str, metadata: Mapping[str, str], traceparent: str = "", region: str = ""
    ) -> tuple[Call, str]:
        """A call for an offer, known to the relays that its client is told of, and the answer.

        `metadata` is for the backend; `region` is what the client is near to.

        Its trace, which goes on with `traceparent`, ends when the client is connected, or the call is over.

        Raises:
            OfferError: the offer cannot be served.
            BusyError: no room for another call.
            RelayError: the relay is away, or refused.
        """
        span = self._tracing.start("transceiver.call", traceparent)
        try:
            call, answer = await self._set_up(offer, metadata, span, region)
        except (TransceiverError, asyncio.CancelledError) as error:
            span.end(error=type(error).__name__)
            if isinstance(error, TransceiverError):
                self._tally.setup(_result(error))
            raise
        event(logging.INFO, "call_answered", call=call.id)
        return call, answer

    async def _set_up(
        self, offer: str, metadata: Mapping[str, str], span: Span, region: str
    ) -> tuple[Call, str]:
        await self._relays.settle(self._limits.relay)
        refusal = self._admission.refusal(len(self._calls))
        if refusal is not None:
            raise BusyError(refusal)
        # Unguessable: who knows it may end the call (RFC 9725, 5). 32 characters at most, as the relay wants.
        call_id = f"{secrets.token_hex(14)}{self._suffix}"
        call = Call(
            call_id,
            self._routes(region),
            self._traffic,
            metadata,
            self._converse,
            self._changed,
            self._renewed,
            self._hung_up,
            span,
            self._mint.session() if self._mint else Credentials.fresh,
        )
        try:
            with span.child("transceiver.answer"):
                await call.negotiate(offer)
            self._calls[call.id] = call  # before registering: a snapshot sent meanwhile must name it
            with span.child("transceiver.register", Role.CLIENT) as registering:
                leading = await self._relays.register(
                    call.registration(), self._limits.relay, registering.traceparent, call.vips
                )
            answer = call.advertise(leading)
            call.connecting = span.child("transceiver.connect")
            if call.state is State.ENDED:
                raise BusyError("the call was ended while it was being set up")
        except (TransceiverError, asyncio.CancelledError):
            self._end_soon(call, End.NOT_REGISTERED)
            raise
        return call, answer

    async def delete(self, call_id: str) -> bool:
        """Ends a call at its client's wish; False if there is none of that id."""
        call = self._calls.get(call_id)
        if call is None:
            return False
        await asyncio.shield(self._end_soon(call, End.DELETED))
        return True

    async def patch(self, call_id: str, if_match: str | None, fragment: str) -> tuple[Call, str] | None:
        """Restarts a call's ICE if a client's fragment asks for it; trickled candidates are ignored.

        Returns the call, with its new ETag, and the fragment that answers; None if nothing was restarted.

        Raises:
            PatchError: there is no such call, or the request does not fit it.
            RelayError: the relay does not know of the new credentials: the call is as it was before.
        """
        call = self._alive(call_id)
        client = read_credentials(fragment)
        await self._relays.settle(self._limits.relay)
        async with call.patching:
            check_if_match(if_match, self._alive(call_id).etag)
            if client is None or not call.asks_restart(client):
                return None
            answer = call.begin_restart()
            try:
                await self._relays.register(call.registration(), self._limits.relay, vips=call.vips)
            except (RelayError, asyncio.CancelledError):
                call.undo_restart()
                raise
            self._alive(call_id)  # it may have ended meanwhile
            call.finish_restart(client)
        event(logging.INFO, "ice_restarting", call=call.id)
        return call, answer

    async def watch(self, beat: Callable[[], None] = lambda: None) -> None:
        """Ends calls that do not come about and calls whose client has vanished; runs until cancelled.

        `beat` is called at each round.
        """
        interval = min(1.0, self._limits.setup / 4, self._limits.silence / 4)
        while True:
            await asyncio.sleep(interval)
            now = asyncio.get_running_loop().time()
            for call in list(self._calls.values()):
                reason = call.overdue(now, self._limits.setup, self._limits.silence)
                if reason is not None:
                    self._end_soon(call, reason)
            beat()

    async def move_all(self, seconds: float) -> None:
        """Tells clients to call elsewhere within that time: not all at once, so that others can take them.

        They come no faster than this process itself would take new ones, unless the time is short.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + seconds
        calls = list(self._calls.values())
        between = pause(len(calls), seconds, self._limits.setups)
        for call in calls:
            if call.state is not State.ENDED:
                call.tell(move(Why.DRAIN, deadline - clock()))
            await asyncio.sleep(between)

    async def end_all(self, moving: bool = True) -> None:
        """Ends all calls, within the time that shutting down may take; those that are `moving` are told."""
        if self._calls:
            event(logging.INFO, "ending_calls", calls=len(self._calls))
        if self._calls and moving:
            for call in self._calls.values():
                call.tell(move(Why.SHUTDOWN, 0))
            await asyncio.sleep(TOLD)
        for call in list(self._calls.values()):
            self._end_soon(call, End.SHUTDOWN)
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=self._limits.shutdown)
            if late:
                event(logging.WARNING, "shutdown_incomplete", calls=len(late))

    def flow_event(self, response: pb.AttachResponse) -> None:
        """The relay says that a client's flow was bound or ended."""
        if response.WhichOneof("message") == "flow_bound":
            name, flow, reason = "flow_bound", response.flow_bound.flow, "none"
        else:
            name, flow, reason = "flow_ended", response.flow_ended.flow, _reason(response.flow_ended)
        self._tally.flow_events[name] += 1
        event(logging.INFO, name, call=flow.session_id, client=_text(flow.client), reason=reason)

    def _routes(self, region: str) -> list[Route]:
        vips = self._ingresses.near(region)
        routes = [
            Route(port, vip)
            for port in self._ports
            for vip in vips
            if vip.address.version == port.endpoint.address.version
        ]
        if not routes:
            raise RelayAwayError("the relay has no VIP of a family that this transceiver has an address of")
        return routes

    def _changed(self, call: Call) -> None:
        if call.state is State.ENDED:
            return
        if call.connection_state == "connected" and call.state is State.CONNECTING:
            call.state = State.CONNECTED
            seconds = asyncio.get_running_loop().time() - call.started_at
            self._tally.setup("connected", seconds)
            call.connecting.end()
            call.span.end()
            event(logging.INFO, "call_connected", call=call.id, setup_seconds=seconds)
            call.begin()
        elif call.connection_state == "failed":
            self._end_soon(call, End.FAILED)
        elif call.connection_state == "closed":
            self._end_soon(call, End.CLIENT_CLOSED)

    def _alive(self, call_id: str) -> Call:
        call = self._calls.get(call_id)
        if call is None:
            raise PatchError(404, "there is no such session; it may have ended")
        return call

    def _hung_up(self, call: Call, reason: End) -> None:
        if call.state is not State.ENDED:
            self._end_soon(call, reason)

    def _renewed(self, call: Call) -> None:
        event(logging.INFO, "ice_restarted", call=call.id)
        self._tally.restarts += 1
        self._start(self._register_anew(call))

    async def _register_anew(self, call: Call) -> None:
        """The relay need not know the old credentials any longer. If it misses this, they lead nowhere."""
        if call.state is not State.ENDED:
            try:
                await self._relays.register(call.registration(), self._limits.relay, vips=call.vips)
            except RelayError as error:
                event(logging.INFO, "not_registered_anew", call=call.id, detail=str(error))

    def _end_soon(self, call: Call, reason: End) -> asyncio.Task[None]:
        known = self._calls.pop(call.id, None) is not None
        if known and call.state is State.CONNECTING and reason is not End.NOT_REGISTERED:
            self._tally.setup(reason)
        if call.state is State.CONNECTING and reason is not End.NOT_REGISTERED:  # of that, set_up knows more
            call.connecting.end(error=reason)
            call.span.end(error=reason)
        call.state = State.ENDED
        return self._start(self._end(call, reason, known))

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _end(self, call: Call, reason: End, known: bool) -> None:
        """The client is told first: the way to it ends with its registration."""
        try:
            await call.close(reason)
        finally:  # whatever aiortc raises, the relay must not keep the session
            if known:
                self._tally.ended[reason] += 1
                event(logging.INFO, "call_ended", call=call.id, reason=reason)
                await self._unregister(call)

    async def _unregister(self, call: Call) -> None:
        try:
            await self._relays.unregister(call.id, self._limits.relay)
        except RelayError as error:
            # Attached anew, the relay learns it from the snapshot.
            event(logging.INFO, "not_unregistered", call=call.id, detail=str(error))


def _result(error: TransceiverError) -> str:
    kinds = {
        OfferError: "bad_offer",
        BusyError: "busy",
        RelayAwayError: "relay_away",
        RefusedError: "refused",
    }
    return kinds.get(type(error), "failed")


def _reason(ended: pb.FlowEnded) -> str:
    """`idle` and the like; the number if the relay is newer than this code."""
    if ended.reason not in pb.FlowEndReason.values():
        return str(ended.reason)
    return pb.FlowEndReason.Name(ended.reason).removeprefix("FLOW_END_REASON_").lower()


def _text(endpoint: pb.Endpoint) -> str:
    host = f"[{endpoint.address}]" if ":" in endpoint.address else endpoint.address
    return f"{host}:{endpoint.port}"
