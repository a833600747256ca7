# SPDX-License-Identifier: Apache-2.0
"""The relay's gRPC service as a test wants it: blocking, every call with a deadline."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import grpc
from earshot.relay.v1 import relay_pb2 as pb
from earshot.relay.v1 import relay_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT = 10.0
STREAM_TIMEOUT = 110.0  # a test's own limit comes later
# Otherwise channels of one process share a connection, and with it the pause after one that was refused: who
# attaches to a relay that has just started would be told that it is away, since somebody else found it so.
OPTIONS = (("grpc.use_local_subchannel_pool", 1),)


class RelayClient:
    """What anyone may ask of a relay."""

    def __init__(self, target: str) -> None:
        self._channel = grpc.insecure_channel(target, OPTIONS)
        self._stub: Any = relay_pb2_grpc.RelayServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._health = health_pb2_grpc.HealthStub(self._channel)

    def __enter__(self) -> RelayClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def health(self) -> int:
        """As grpc.health.v1 says it of the daemon: SERVING, or NOT_SERVING."""
        answer = self._health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
        return int(answer.status)

    def flows(self, session_id: str = "") -> list[pb.Flow]:
        pages = self._stub.ListFlows(pb.ListFlowsRequest(session_id=session_id), timeout=TIMEOUT)
        return [flow for page in pages for flow in page.flows]

    def sessions(self) -> list[pb.SessionInfo]:
        pages = self._stub.ListSessions(pb.ListSessionsRequest(), timeout=TIMEOUT)
        return [session for page in pages for session in page.sessions]

    def transceivers(self) -> list[pb.TransceiverInfo]:
        response = self._stub.ListTransceivers(pb.ListTransceiversRequest(), timeout=TIMEOUT)
        return list(response.transceivers)

    def counters(self) -> dict[str, int]:
        """Packets by reason; reasons never reached are there with 0."""
        response = self._stub.GetCounters(pb.GetCountersRequest(), timeout=TIMEOUT)
        return {counter.reason: counter.packets for counter in response.reasons}

    def attach(
        self,
        transceiver: str,
        timeout: float | None = STREAM_TIMEOUT,
        *,
        routable: pb.Routable | None = None,
    ) -> Attachment:
        """`timeout`: of the stream as a whole, in seconds; None: none."""
        return Attachment(self._stub, transceiver, timeout, routable)


class Attachment:
    """A transceiver's stream, as a context manager: it ends with the block.

    Attributes:
        welcome: what the relay has said first.
        told_draining: whether it said since that it drains, or does not any more; None: nothing.
    """

    told_draining: bool | None = None

    def __init__(
        self,
        stub: Any,
        transceiver: str,
        timeout: float | None = STREAM_TIMEOUT,
        routable: pb.Routable | None = None,
    ) -> None:
        self._requests: queue.SimpleQueue[pb.AttachRequest | None] = queue.SimpleQueue()
        self._responses = stub.Attach(iter(self._requests.get, None), timeout=timeout)
        self._events: list[pb.AttachResponse] = []
        self._batch_id = 0
        hello = pb.Hello(transceiver=transceiver, software="test", routable=routable)
        self._send(pb.AttachRequest(hello=hello))
        self.welcome: pb.Welcome = self._answer("welcome")

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._requests.put(None)
        self._responses.cancel()

    def finish(self) -> None:
        """Ends the stream and waits until the relay has ended it, too."""
        self._requests.put(None)
        self._events.extend(self._read())

    def add(
        self, session_id: str, ufrag: str, endpoints: Sequence[tuple[str, int]], pwd: str = ""
    ) -> pb.OperationResult:
        session = pb.Session(
            session_id=session_id,
            credentials=[pb.Credential(ufrag=ufrag, pwd=pwd)],
            endpoints=[pb.Endpoint(address=address, port=port) for address, port in endpoints],
        )
        return self.add_session(session)

    def add_session(self, session: pb.Session) -> pb.OperationResult:
        return self.batch(pb.Operation(add=session))[0]

    def remove(self, session_id: str) -> pb.OperationResult:
        return self.batch(pb.Operation(remove=pb.Remove(session_id=session_id)))[0]

    def batch(self, *operations: pb.Operation) -> Sequence[pb.OperationResult]:
        self.say(*operations)
        return self.results()

    def say(self, *operations: pb.Operation) -> None:
        """Sends a batch, and does not wait for its results."""
        self._batch_id += 1
        self._send(pb.AttachRequest(batch=pb.Batch(batch_id=self._batch_id, operations=operations)))

    def results(self) -> Sequence[pb.OperationResult]:
        """Those of the last batch."""
        result: pb.BatchResult = self._answer("batch_result")
        assert result.batch_id == self._batch_id
        return result.results

    def snapshot(self, *sessions: pb.Session) -> pb.SnapshotResult:
        """All sessions there are, at most 1,000."""
        self._send(pb.AttachRequest(snapshot=pb.Snapshot(sessions=sessions, last=True)))
        result: pb.SnapshotResult = self._answer("snapshot_result")
        return result

    def events(self) -> Iterator[pb.AttachResponse]:
        """FlowBound and FlowEnded in their order, as they come; waits for the next one."""
        while True:
            yield self._events.pop(0) if self._events else next(self._read())

    def seen_events(self) -> list[pb.AttachResponse]:
        """Those that came before the answers so far, without waiting."""
        seen, self._events = self._events, []
        return seen

    def _read(self) -> Iterator[pb.AttachResponse]:
        for response in self._responses:
            if response.HasField("draining"):
                self.told_draining = response.draining.draining
            else:
                yield response

    def _send(self, request: pb.AttachRequest) -> None:
        self._requests.put(request)

    def _answer(self, kind: str) -> Any:
        for response in self._read():
            if response.WhichOneof("message") == kind:
                return getattr(response, kind)
            self._events.append(response)
        raise ConnectionError(f"the relay ended the stream before its {kind}")
