# SPDX-License-Identifier: Apache-2.0
"""RelayService of proto/earshot/relay/v1: what callers say, handed to the relay, and its answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import grpc
from earshot.relay.v1 import relay_pb2 as pb
from earshot.relay.v1 import relay_pb2_grpc

from control import abi
from control.flows import count_by_session, describe, endpoint_message, in_state, is_live
from control.model import Attachment, Session, SessionName
from control.relay import Relay, clock
from control.requests import Code, RequestError
from control.streams import Outbox

PAGE = 500
HELLO_SECONDS = 10.0
LAST_WRITE_SECONDS = 2.0

_T = TypeVar("_T")


class RelayService(relay_pb2_grpc.RelayServiceServicer):
    """Raises RequestError and its like; control/status.py makes gRPC statuses of them."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    async def Attach(self, requests: AsyncIterator[pb.AttachRequest], context: Any) -> None:
        """Lives as long as the transceiver is attached; see the proto."""
        attachment, outbox = self._relay.attach(await _hello(context))
        listening = asyncio.create_task(self._listen(attachment, outbox, context))
        speaking = asyncio.create_task(_speak(outbox, context))
        closing = asyncio.create_task(outbox.closed())
        tasks = (listening, speaking, closing)
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._relay.detach(attachment, outbox)
            # gRPC sends no status while a message is being written, not even one whose task is
            # cancelled: let it out first. Whoever does not read gets no status.
            outbox.end()
            await asyncio.wait([speaking], timeout=LAST_WRITE_SECONDS)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, attachment: Attachment, outbox: Outbox, context: Any) -> None:
        """One request at a time; returns when the transceiver has no more to say."""
        while (request := await context.read()) is not grpc.aio.EOF:
            await outbox.answer(await self._relay.handle(attachment, request))

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Any) -> None:
        flows = count_by_session(self._relay.datapath.flows)
        owners = [one for one in self._relay.registry.owners() if request.transceiver in ("", one.name)]
        sessions = [session for owner in owners for session in owner.sessions.values()]
        # A page may wait for its reader, and sessions and flows go on meanwhile.
        current = filter(None, (self._relay.registry.session(session.number) for session in sessions))
        for page in _pages(self._session_info(session, flows) for session in current):
            await context.write(pb.ListSessionsResponse(sessions=page))

    async def ListFlows(self, request: pb.ListFlowsRequest, context: Any) -> None:
        for page in _pages(self._flows(request)):
            await context.write(pb.ListFlowsResponse(flows=page))

    async def ListTransceivers(
        self, request: pb.ListTransceiversRequest, context: Any
    ) -> pb.ListTransceiversResponse:
        now = clock().seconds
        return pb.ListTransceiversResponse(
            transceivers=[
                pb.TransceiverInfo(
                    transceiver=owner.name,
                    attached=owner.attached,
                    since_seconds=int(now - owner.since),
                    sessions=len(owner.sessions),
                    software=owner.software,
                )
                for owner in self._relay.registry.owners()
            ]
        )

    async def ListVips(self, request: pb.ListVipsRequest, context: Any) -> pb.ListVipsResponse:
        return pb.ListVipsResponse(vips=map(endpoint_message, self._relay.vips))

    async def GetCounters(self, request: pb.GetCountersRequest, context: Any) -> pb.GetCountersResponse:
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

    def _flows(self, request: pb.ListFlowsRequest) -> Iterator[pb.Flow]:
        datapath, registry = self._relay.datapath, self._relay.registry
        for number in in_state(datapath.flows["state"], abi.FlowState.LIVE).tolist():
            record = datapath.flows[number]
            if not is_live(record):
                continue
            session = registry.session(int(record["session"]))
            name = registry.name_of(session) if session else SessionName("", "")
            if request.transceiver in ("", name.transceiver) and request.session_id in ("", name.session_id):
                yield describe(datapath, number, name, clock())


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


def _pages(items: Iterable[_T]) -> Iterator[list[_T]]:
    iterator = iter(items)
    while page := list(islice(iterator, PAGE)):
        yield page
