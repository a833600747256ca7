# SPDX-License-Identifier: Apache-2.0
"""An Attach stream message by message, for tests of what a well-behaved transceiver never does."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
from earshot.relay.v1 import relay_pb2 as pb
from earshot.relay.v1 import relay_pb2_grpc

from tests.lab.calls import DEADLINE, SOCKET_FAMILY, STUN_PWD, Call, new_ufrag
from tests.lab.topology import VIP_PORT, Site

TIMEOUT = 30.0


class RawStream:
    """Sends what it is told, and takes what comes."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._requests: queue.SimpleQueue[pb.AttachRequest | None] = queue.SimpleQueue()
        self._passed: list[pb.AttachResponse] = []
        stub: Any = relay_pb2_grpc.RelayServiceStub(channel)  # type: ignore[no-untyped-call]
        self._responses = stub.Attach(iter(self._requests.get, None), timeout=TIMEOUT)

    def send(self, **message: Any) -> None:
        """One AttachRequest: send(hello=...), send(batch=...)."""
        self._requests.put(pb.AttachRequest(**message))

    def take(self, kind: str) -> Any:
        """The next message of a kind; those before it are kept for later."""
        for position, response in enumerate(self._passed):
            if response.WhichOneof("message") == kind:
                return getattr(self._passed.pop(position), kind)
        for response in self._responses:
            if response.WhichOneof("message") == kind:
                return getattr(response, kind)
            self._passed.append(response)
        raise ConnectionError(f"the stream ended before its {kind}")

    def hello(self, name: str) -> pb.Welcome:
        self.send(hello=pb.Hello(transceiver=name, software="raw", region="here"))
        welcome: pb.Welcome = self.take("welcome")
        return welcome

    def batch(self, *operations: pb.Operation) -> list[tuple[int, str]]:
        """The code and field of each result."""
        self.send(batch=pb.Batch(batch_id=1, operations=operations))
        return [(result.code, result.field) for result in self.take("batch_result").results]

    def snapshot(self, *sessions: pb.Session, last: bool = True) -> pb.SnapshotResult:
        self.send(snapshot=pb.Snapshot(sessions=sessions, last=last))
        result: pb.SnapshotResult = self.take("snapshot_result")
        return result

    def error(self) -> tuple[grpc.StatusCode, str]:
        """The status that ends the stream."""
        try:
            for _ in self._responses:
                pass
        except grpc.RpcError as error:
            return error.code(), error.details()
        return grpc.StatusCode.OK, ""

    def close(self) -> None:
        self._requests.put(None)
        self._responses.cancel()


@contextlib.contextmanager
def raw_stream(channel: grpc.Channel) -> Iterator[RawStream]:
    stream = RawStream(channel)
    try:
        yield stream
    finally:
        stream.close()


class UnregisteredCall(Call):
    """A call whose session the test registers itself."""

    @property
    def endpoint(self) -> tuple[str, int]:
        address, port = self.transceiver.getsockname()[:2]
        return address, port


@contextlib.contextmanager
def unregistered_call(site: Site, family: int, session_id: str) -> Iterator[UnregisteredCall]:
    addresses = site.addresses[family]
    with (
        site.client.socket(SOCKET_FAMILY[family], timeout=DEADLINE) as client,
        site.transceiver.socket(SOCKET_FAMILY[family], timeout=DEADLINE) as transceiver,
    ):
        transceiver.bind((addresses.transceiver, 0))
        yield UnregisteredCall(client, transceiver, (addresses.vip, VIP_PORT), session_id, new_ufrag())


def session(
    session_id: str,
    *ufrags: str,
    to: Sequence[tuple[str, int]] = (("10.20.0.10", 4000),),
    pwd: str = STUN_PWD,
    ttl_seconds: int = 0,
) -> pb.Session:
    return pb.Session(
        session_id=session_id,
        credentials=[pb.Credential(ufrag=ufrag, pwd=pwd) for ufrag in ufrags],
        endpoints=[pb.Endpoint(address=address, port=port) for address, port in to],
        ttl_seconds=ttl_seconds,
    )


def add(session_id: str, *ufrags: str, **more: Any) -> pb.Operation:
    return pb.Operation(add=session(session_id, *ufrags, **more))


def remove(session_id: str) -> pb.Operation:
    return pb.Operation(remove=pb.Remove(session_id=session_id))


def renew(session_id: str) -> pb.Operation:
    return pb.Operation(renew=pb.Renew(session_id=session_id))
