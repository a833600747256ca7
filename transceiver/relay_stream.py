# SPDX-License-Identifier: Apache-2.0
"""One attachment to a relay: Hello, the full snapshot, then batches of operations, matched to results."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import grpc.aio
from earshot.relay.v1 import relay_pb2 as pb

from transceiver.errors import RelayAwayError
from transceiver.log import event

ATTACH_TIMEOUT = 10.0  # for the Welcome, and for each answer to a part of the snapshot
STALL_TIMEOUT = 15.0  # a batch unanswered for so long means that the stream is dead
DEFAULT_BATCH = 1000  # if the relay does not say

Waiter = tuple[pb.Operation, asyncio.Future[pb.OperationResult]]


class RelayStream:
    """The stream, from Hello until it breaks; then `abandon` it."""

    def __init__(
        self,
        call: Any,
        on_flow: Callable[[pb.AttachResponse], None],
        on_draining: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """`on_draining`: whether the relay takes no new sessions from now on."""
        self._call = call
        self._on_flow = on_flow
        self._on_draining = on_draining
        self._max_batch = DEFAULT_BATCH
        self._outbox: list[Waiter] = []
        self._wake = asyncio.Event()
        self._end: RelayAwayError | None = None
        self._pending: dict[int, tuple[list[Waiter], asyncio.TimerHandle]] = {}

    async def greet(
        self, name: str, software: str, routable: pb.Routable | None = None, region: str = ""
    ) -> pb.Welcome:
        """Says who attaches. Raises `RelayAwayError`, `grpc.RpcError` or `TimeoutError`."""
        hello = pb.AttachRequest(
            hello=pb.Hello(transceiver=name, software=software, routable=routable, region=region)
        )
        welcome: pb.Welcome = (await self._ask(hello, "welcome")).welcome
        self._max_batch = welcome.max_batch or DEFAULT_BATCH
        return welcome

    async def send_snapshot(self, sessions: Sequence[pb.Session]) -> None:
        """Tells all sessions there are. Raises as `greet` does."""
        starts = range(0, len(sessions), self._max_batch) or (0,)
        for start in starts:
            part = sessions[start : start + self._max_batch]
            last = start + self._max_batch >= len(sessions)
            request = pb.AttachRequest(snapshot=pb.Snapshot(sessions=part, last=last))
            answer = await self._ask(request, "snapshot_result")
            for result in answer.snapshot_result.results:
                if result.code:
                    event(
                        logging.WARNING,
                        "session_not_restored",
                        call=result.session_id,
                        code=result.code,
                        field=result.field,
                        detail=result.message,
                    )

    def submit(self, operation: pb.Operation) -> asyncio.Future[pb.OperationResult]:
        """Queues an operation; operations of the same moment leave in one batch.

        The future gets the relay's result, or `RelayAwayError` when the stream breaks first.
        """
        future: asyncio.Future[pb.OperationResult] = asyncio.get_running_loop().create_future()
        self._outbox.append((operation, future))
        self._wake.set()
        return future

    async def run(self) -> None:
        """Serves the stream until it breaks; raises what broke it."""
        writer = asyncio.create_task(self._write())
        try:
            while True:
                self._take(await self._read())
        except asyncio.CancelledError:
            if self._end is not None:
                raise self._end from None
            raise
        finally:
            writer.cancel()

    def end(self, why: RelayAwayError) -> None:
        """Has `run` raise this, which goes on or is just about to."""
        self._end = why
        self._call.cancel()  # the reader then sees a cancellation, and why

    def abandon(self) -> None:
        """Whoever still waits for a result is told that none will come."""
        left = list(self._outbox)
        for waiters, stall in self._pending.values():
            stall.cancel()
            left += waiters
        self._outbox, self._pending = [], {}
        for _, future in left:
            if not future.done():
                future.set_exception(RelayAwayError("the relay went away"))
                future.exception()  # marks it as seen: whoever waited may have gone

    async def _write(self) -> None:
        batch_id = 0
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            waiters, self._outbox = self._outbox[: self._max_batch], self._outbox[self._max_batch :]
            if not self._outbox:
                self._wake.clear()
            batch_id += 1
            self._pending[batch_id] = (waiters, loop.call_later(STALL_TIMEOUT, self._stall))
            batch = pb.Batch(batch_id=batch_id, operations=[operation for operation, _ in waiters])
            try:
                await self._call.write(pb.AttachRequest(batch=batch))
            except (grpc.RpcError, asyncio.InvalidStateError):
                return  # the reader meets the same break, and says why

    def _stall(self) -> None:
        self.end(RelayAwayError(f"no result of a batch within {STALL_TIMEOUT:g} s"))

    async def _read(self) -> pb.AttachResponse:
        response: pb.AttachResponse = await self._call.read()
        if response is grpc.aio.EOF:
            raise RelayAwayError("the relay ended the stream")
        return response

    async def _ask(self, request: pb.AttachRequest, kind: str) -> pb.AttachResponse:
        async with asyncio.timeout(ATTACH_TIMEOUT):
            await self._call.write(request)
            while True:
                response = await self._read()
                if response.WhichOneof("message") == kind:
                    return response
                self._take(response)

    def _take(self, response: pb.AttachResponse) -> None:
        kind = response.WhichOneof("message")
        if kind in ("flow_bound", "flow_ended"):
            self._on_flow(response)
        elif kind == "batch_result":
            self._settle(response.batch_result)
        elif kind == "draining":
            self._on_draining(response.draining.draining)
        else:
            event(logging.DEBUG, "message_ignored", kind=kind)  # of a newer relay

    def _settle(self, result: pb.BatchResult) -> None:
        waiters, stall = self._pending.pop(result.batch_id, ([], None))
        if stall is not None:
            stall.cancel()
        if len(waiters) != len(result.results):
            raise RelayAwayError(f"{len(result.results)} results for {len(waiters)} operations")
        for (_, future), outcome in zip(waiters, result.results, strict=True):
            if not future.done():
                future.set_result(outcome)
