# SPDX-License-Identifier: Apache-2.0
"""RelayService of proto/earshot/relay/v1: what callers say, handed to the relay, and its answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from itertools import compress, islice, repeat
from typing import Any, TypeVar

import grpc
import numpy as np
from earshot.relay.v1 import relay_pb2 as pb
from earshot.relay.v1 import relay_pb2_grpc

from control import abi
from control.access import Grant
from control.batches import SLICE, Speaker, clock
from control.flows import count_by_session, endpoint_message, in_state
from control.model import Session
from control.relay import Relay
from control.reports import flow_messages
from control.requests import Code, RequestError
from control.streams import Outbox
from control.sweep import parts
from telemetry.tracing import traceparent_in

PAGE = 500
HELLO_SECONDS = 10.0
LAST_WRITE_SECONDS = 2.0

_T = TypeVar("_T")


class RelayService(relay_pb2_grpc.RelayServiceServicer):
    """Raises RequestError and its like; control/status.py makes gRPC statuses of them."""

    def __init__(self, relay: Relay, grant_of: Callable[[Any], Grant]) -> None:
        """`grant_of` says what the caller of a context may do, or raises RequestError."""
        self._relay = relay
        self._grant_of = grant_of

    async def Attach(self, requests: AsyncIterator[pb.AttachRequest], context: Any) -> None:
        """Lives as long as the transceiver is attached; see the proto."""
        with self._relay.tracing.start("relay.attach", traceparent_in(context.invocation_metadata())):
            grant = self._grant_of(context)
            hello = await _hello(context)
            speaker, outbox = self._relay.attach(hello, grant)
        listening = asyncio.create_task(self._listen(speaker, outbox, hello, context))
        speaking = asyncio.create_task(_speak(outbox, context))
        closing = asyncio.create_task(outbox.closed())
        tasks = (listening, speaking, closing)
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._relay.detach(speaker, outbox)
            # gRPC sends no status while a message is being written, not even one whose task is
            # cancelled: let it out first. Whoever does not read gets no status.
            outbox.end()
            listening.cancel()
            closing.cancel()
            try:
                await asyncio.wait([speaking], timeout=LAST_WRITE_SECONDS)
            finally:  # also when this call is cancelled a second time
                speaking.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, speaker: Speaker, outbox: Outbox, hello: pb.Hello, context: Any) -> None:
        """One request at a time; returns when the transceiver has no more to say."""
        await self._relay.take_place(speaker, hello)
        while (request := await context.read()) is not grpc.aio.EOF:
            await outbox.answer(await self._relay.handle(speaker, request))

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Any) -> None:
        grant = self._reader(context)
        # Beside the loop: a million flows take some 0.2 s to count.
        flows = await asyncio.to_thread(count_by_session, self._relay.datapath.flows)
        owners = [
            one
            for one in self._relay.registry.owners()
            if request.transceiver in ("", one.name) and grant.sees(one.name)
        ]
        sessions = [session for owner in owners for session in owner.sessions.values()]
        # A page may wait for its reader, and sessions and flows go on meanwhile.
        current = filter(None, (self._relay.registry.session(session.number) for session in sessions))
        async for page in _pages(self._session_info(session, flows) for session in current):
            await context.write(pb.ListSessionsResponse(sessions=page))

    async def ListFlows(self, request: pb.ListFlowsRequest, context: Any) -> None:
        async for page in _pages(self._flows(request, self._reader(context))):
            await context.write(pb.ListFlowsResponse(flows=page))

    async def ListTransceivers(
        self, request: pb.ListTransceiversRequest, context: Any
    ) -> pb.ListTransceiversResponse:
        grant = self._reader(context)
        now = clock().seconds
        return pb.ListTransceiversResponse(
            transceivers=[
                pb.TransceiverInfo(
                    transceiver=owner.name,
                    attached=owner.attached,
                    since_seconds=int(now - owner.since),
                    sessions=len(owner.sessions),
                    software=owner.software,
                    region=owner.region,
                )
                for owner in self._relay.registry.owners()
                if grant.sees(owner.name)
            ]
        )

    async def ListVips(self, request: pb.ListVipsRequest, context: Any) -> pb.ListVipsResponse:
        self._reader(context)
        await self._relay.settled()
        return pb.ListVipsResponse(
            vips=map(endpoint_message, self._relay.vips),
            relay=self._relay.name,
            region=self._relay.region,
            directories=self._relay.directory_ids,
            draining=self._relay.draining_since is not None,
        )

    async def GetCounters(self, request: pb.GetCountersRequest, context: Any) -> pb.GetCountersResponse:
        self._reader(context)
        counters = self._relay.datapath.reasons()
        return pb.GetCountersResponse(
            reasons=[
                pb.ReasonCounter(
                    reason=reason.name.lower(),
                    packets=int(counters[reason]["packets"]),
                    bytes=int(counters[reason]["bytes"]),
                )
                for reason in abi.Reason
            ]
        )

    def _reader(self, context: Any) -> Grant:
        """What the caller may see; RequestError if that is nothing."""
        grant = self._grant_of(context)
        if grant.is_empty:
            raise RequestError(Code.PERMISSION_DENIED, f"{grant.caller} has no entry in [[transceivers]]")
        return grant

    def _session_info(self, session: Session, flows: dict[int, int]) -> pb.SessionInfo:
        left = max(1, session.expires - int(clock().seconds)) if session.expires else 0
        return pb.SessionInfo(
            session_id=session.session_id,
            transceiver=self._relay.registry.name_of(session).transceiver,
            ufrags=session.ufrags,
            endpoints=map(endpoint_message, self._relay.registry.endpoints(session)),
            ttl_seconds=left,
            flows=flows.get(session.number, 0),
            has_pwd=any(key.states for key in session.keys),
        )

    def _flows(self, request: pb.ListFlowsRequest, grant: Grant) -> Iterator[pb.Flow | None]:
        """Those that are asked for and may be seen; None in the place of any other."""
        datapath, registry = self._relay.datapath, self._relay.registry
        live = in_state(datapath.flows["state"], abi.FlowState.LIVE)
        for part in parts(live, SLICE):
            still = part[in_state(datapath.flows["state"][part], abi.FlowState.LIVE)]
            sessions, backends = (datapath.flows[field][still].tolist() for field in ("session", "backend"))
            names = list(map(registry.name_of_flow, sessions, backends))
            shown = [
                request.transceiver in ("", name.transceiver)
                and request.session_id in ("", name.session_id)
                and grant.sees(name.transceiver)
                for name in names
            ]
            yield from flow_messages(
                datapath, still[np.array(shown, np.bool_)], list(compress(names, shown)), clock()
            )
            yield from repeat(None, len(part) - sum(shown))


async def _hello(context: Any) -> pb.Hello:
    try:
        async with asyncio.timeout(HELLO_SECONDS):
            first = await context.read()
    except TimeoutError:
        raise RequestError(
            Code.FAILED_PRECONDITION, f"did not come within {HELLO_SECONDS:g} s", "hello"
        ) from None
    if first is grpc.aio.EOF or not first.HasField("hello"):
        raise RequestError(Code.FAILED_PRECONDITION, "has to come first", "hello")
    return first.hello  # type: ignore[no-any-return]


async def _speak(outbox: Outbox, context: Any) -> None:
    while (message := await outbox.next()) is not None:
        await context.write(message)


async def _pages(items: Iterable[_T | None]) -> AsyncIterator[list[_T]]:
    """Items in lists that are not empty. Others have their turn after each slice of work, shown or not."""
    iterator = iter(items)
    page: list[_T] = []
    while part := list(islice(iterator, SLICE)):
        page += [item for item in part if item is not None]
        if len(page) >= PAGE:
            yield page
            page = []
        await asyncio.sleep(0)
    if page:
        yield page
