# SPDX-License-Identifier: Apache-2.0
"""A real earshot-transceiver on loopback, and a small relay that it can be attached to.

The relay here does in user space what the real one does in the kernel: it takes registrations over gRPC,
binds clients by the ufrag of their checks, and translates both ends of every packet.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import select
import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
from aioice import stun
from earshot.relay.v1 import relay_pb2 as pb
from earshot.relay.v1 import relay_pb2_grpc

CLIENT, MEDIA, VIP, RELAY = "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"
DEADLINE = 30.0  # seconds for what comes at once, unless the machine has other things to do

Address = tuple[str, int]


async def eventually(condition: Callable[[], bool]) -> None:
    """Waits until it holds; fails the test if it never does."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110  # what is waited for is in other processes
            await asyncio.sleep(0.01)


class _Socket(asyncio.DatagramProtocol):
    def __init__(self, received: Callable[[bytes, Address], None]) -> None:
        self._received = received

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._received(data, addr[:2])


async def open_socket(host: str, received: Callable[[bytes, Address], None]) -> asyncio.DatagramTransport:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _Socket(received), local_addr=(host, 0)
    )
    return transport


class Relay(relay_pb2_grpc.RelayServiceServicer):  # type: ignore[misc]
    """Records what it is told, and forwards.

    `refuse` makes it refuse additions with that result, `mute` makes it not answer batches at all, `old` not
    know what is asked before an attachment, and `frozen` not answer that. Relays that share a directory
    (`share`) have one stream of a transceiver between them, the latest, and tell each other nothing else.
    """

    def __init__(self, socket: Path, vip: str, relay: str, region: str) -> None:
        self.region = region
        self._vip_host, self._relay_host = vip, relay
        self._vip: asyncio.DatagramTransport | None = None
        self.target = f"unix:{socket}"
        self.sessions: dict[str, pb.Session] = {}
        self.snapshots: list[list[str]] = []
        self.hellos: list[pb.Hello] = []
        self.operations: list[tuple[str, str]] = []
        self.batch_sizes: list[int] = []
        self.refuse: pb.OperationResult | None = None
        self.mute = False
        self.deaf = False  # to clients
        self.max_batch = 2
        self.media_times: defaultdict[str, list[float]] = defaultdict(list)  # towards a session's client
        self._owners: dict[str, str] = {}
        self._flows: dict[Address, tuple[str, asyncio.DatagramTransport]] = {}
        self.directories: list[str] = []
        self.draining = False
        self.old = self.frozen = False
        self._sharing: list[Relay] = [self]
        self._events: list[asyncio.Queue[pb.AttachResponse | None]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        if self._vip is None:
            self._vip = await open_socket(self._vip_host, self._from_client)
        self._server = grpc.aio.server()
        relay_pb2_grpc.add_RelayServiceServicer_to_server(self, self._server)
        self._server.add_insecure_port(self.target)
        await self._server.start()

    async def stop_grpc(self) -> None:
        await self._server.stop(None)

    async def stop(self) -> None:
        await self.stop_grpc()
        assert self._vip is not None
        self._vip.close()
        for _, transport in self._flows.values():
            transport.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.sleep(0)  # transports close in the loop's next turn

    @property
    def vip(self) -> pb.Endpoint:
        assert self._vip is not None
        return pb.Endpoint(address=self._vip_host, port=self._vip.get_extra_info("sockname")[1])

    @staticmethod
    def share(directory: str, *relays: Relay) -> None:
        """They have that directory between them."""
        for relay in relays:
            relay.directories, relay._sharing = [directory], list(relays)

    @property
    def streams(self) -> int:
        """How many are open."""
        return len(self._events)

    def drain(self, draining: bool) -> None:
        """Takes no new sessions, or does again."""
        self.draining = draining
        self.refuse = pb.OperationResult(code=14, message="draining") if draining else None
        for events in self._events:
            events.put_nowait(pb.AttachResponse(draining=pb.Draining(draining=draining)))

    async def ListVips(self, request: pb.ListVipsRequest, context: Any) -> pb.ListVipsResponse:
        if self.frozen:
            await asyncio.Event().wait()
        if self.old:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "of long ago")
        return pb.ListVipsResponse(
            vips=[self.vip],
            relay="test",
            region=self.region,
            directories=self.directories,
            draining=self.draining,
        )

    async def Attach(self, request_iterator: Any, context: Any) -> AsyncIterator[pb.AttachResponse]:
        out: asyncio.Queue[pb.AttachResponse | None] = asyncio.Queue()
        for relay in self._sharing:
            for other in relay._events if self.directories else []:
                other.put_nowait(None)
        self._events.append(out)
        reader = asyncio.create_task(self._read(request_iterator, out))
        try:
            while (response := await out.get()) is not None:
                yield response
            await context.abort(grpc.StatusCode.ABORTED, "attached to another relay of the region")
        finally:
            self._events.remove(out)
            reader.cancel()

    async def _read(self, requests: Any, out: asyncio.Queue[pb.AttachResponse | None]) -> None:
        name, named = "", list[str]()
        async for request in requests:
            kind = request.WhichOneof("message")
            if kind == "hello":
                self.hellos.append(request.hello)
                name = request.hello.transceiver
                welcome = pb.Welcome(
                    relay="test",
                    vips=[self.vip],
                    grace_seconds=30,
                    max_batch=self.max_batch,
                    region=self.region,
                    directories=[] if self.old else self.directories,
                    draining=self.draining,
                )
                out.put_nowait(pb.AttachResponse(welcome=welcome))
            elif kind == "snapshot":
                assert len(request.snapshot.sessions) <= self.max_batch
                named += [session.session_id for session in request.snapshot.sessions]
                for session in request.snapshot.sessions:
                    self._add(name, session)
                if request.snapshot.last:
                    self.snapshots.append(named)
                    for session_id in [id for id, owner in self._owners.items() if owner == name]:
                        if session_id not in named:
                            self._remove(session_id)
                    named = []
                out.put_nowait(pb.AttachResponse(snapshot_result=pb.SnapshotResult()))
            elif not self.mute:
                out.put_nowait(pb.AttachResponse(batch_result=self._batch(name, request.batch)))

    def _add(self, name: str, session: pb.Session) -> None:
        self.sessions[session.session_id] = session
        self._owners[session.session_id] = name

    def _remove(self, session_id: str) -> None:
        self.sessions.pop(session_id, None)
        self._owners.pop(session_id, None)
        for client in [client for client, (bound, _) in self._flows.items() if bound == session_id]:
            self._close_when_read(self._flows.pop(client)[1])

    def _close_when_read(self, transport: asyncio.DatagramTransport) -> None:
        """In the kernel, what came before a removal has been forwarded; here it may still wait its turn."""
        waiting = transport.get_extra_info("socket")
        if not transport.is_closing() and select.select([waiting], [], [], 0)[0]:
            asyncio.get_running_loop().call_soon(self._close_when_read, transport)
        else:
            transport.close()

    def _batch(self, name: str, batch: pb.Batch) -> pb.BatchResult:
        self.batch_sizes.append(len(batch.operations))
        result = pb.BatchResult(batch_id=batch.batch_id)
        for operation in batch.operations:
            kind = operation.WhichOneof("operation")
            session_id = getattr(operation, kind).session_id
            self.operations.append((kind, session_id))
            outcome = pb.OperationResult(session_id=session_id)
            if kind == "add" and self.refuse is not None:
                outcome.MergeFrom(self.refuse)
            elif kind == "add":
                self._add(name, operation.add)
            else:
                self._remove(session_id)
            result.results.append(outcome)
        return result

    def _from_client(self, data: bytes, client: Address) -> None:
        if self.deaf:
            return
        session_id = self._bound_to(data)
        if session_id is not None and self._flows.get(client, ("",))[0] != session_id:
            task = asyncio.create_task(self._bind(data, client, session_id))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif client in self._flows:
            bound, transport = self._flows[client]
            if bound in self.sessions:
                transport.sendto(data, self._backend(bound))

    def _bound_to(self, data: bytes) -> str | None:
        try:
            ufrag = stun.parse_message(data).attributes["USERNAME"].partition(":")[0]
        except (ValueError, KeyError):
            return None
        for session_id, session in self.sessions.items():
            if any(credential.ufrag == ufrag for credential in session.credentials):
                return session_id
        return None

    async def _bind(self, data: bytes, client: Address, session_id: str) -> None:
        if self._flows.get(client, ("",))[0] != session_id:
            await self._open_flow(client, session_id)
            flow = pb.Flow(session_id=session_id, client=pb.Endpoint(address=client[0], port=client[1]))
            for events in self._events:
                events.put_nowait(pb.AttachResponse(flow_bound=pb.FlowBound(flow=flow)))
        self._flows[client][1].sendto(data, self._backend(session_id))

    async def _open_flow(self, client: Address, session_id: str) -> None:
        backend = self._backend(session_id)

        def to_client(answer: bytes, source: Address) -> None:
            assert source == backend
            assert self._vip is not None
            if answer[0] >= 128:
                self.media_times[session_id].append(asyncio.get_running_loop().time())
            self._vip.sendto(answer, client)

        transport = await open_socket(self._relay_host, to_client)
        self._flows[client] = (session_id, transport)

    def lose_flows(self) -> None:
        """Clients are strangers until their next check, and then get other ports towards the transceiver."""
        for _, transport in self._flows.values():
            transport.close()
        self._flows.clear()

    async def move_flows(self) -> None:
        """Every flow gets another port towards the transceiver at once."""
        for client, (session_id, transport) in list(self._flows.items()):
            await self._open_flow(client, session_id)
            transport.close()

    def widest_gap(self, session_id: str) -> float:
        """Seconds of the longest time without media to a session's client, up to now."""
        times = [*self.media_times[session_id], asyncio.get_running_loop().time()]
        return max(after - before for before, after in itertools.pairwise(times))

    def _backend(self, session_id: str) -> Address:
        endpoint = self.sessions[session_id].endpoints[0]
        return (endpoint.address, endpoint.port)


class Transceiver:
    """The process and what it wrote."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def url(self) -> str:
        match = re.search(r"event=ready http=(\S+)", self.log)
        assert match is not None
        return f"http://{match[1]}"

    @property
    def whip(self) -> str:
        return f"{self.url}/whip"


@asynccontextmanager
async def running_relay(vip: str = VIP, relay: str = RELAY, region: str = "") -> AsyncIterator[Relay]:
    with tempfile.TemporaryDirectory(prefix="est-") as folder:
        made = Relay(Path(folder) / "relay.sock", vip, relay, region)
        await made.start()
        try:
            yield made
        finally:
            await made.stop()


@asynccontextmanager
async def running_transceiver(
    relay: Relay,
    *flags: str,
    media: str = MEDIA,
    exit_code: int = 0,
    errors: bool = False,
    more: Sequence[Relay] = (),
    name: str = "t1",
) -> AsyncIterator[Transceiver]:
    """Started and attached; on the way out it must stop by SIGTERM, with this exit code.

    `more`: relays beside the first. Its log must be free of errors, unless they are expected.
    """
    with tempfile.TemporaryDirectory(prefix="est-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "transceiver.main", "--name", name),
                *(f"--relay={one.target}" for one in (relay, *more)),
                *("--http", "127.0.0.1:0", "--media-address", media),
                *("--max-load=1", "--max-setups=1000", *flags),  # whatever else the machine does
                stderr=file,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            )
        transceiver = Transceiver(process, log)
        try:
            await eventually(lambda: "event=ready" in transceiver.log or process.returncode is not None)
            yield transceiver
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(DEADLINE):
                assert await process.wait() == exit_code, transceiver.log
            assert "Traceback" not in transceiver.log, transceiver.log
            assert "event=unhandled" not in transceiver.log, transceiver.log
            assert errors or "level=ERROR" not in transceiver.log, transceiver.log
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


def metric(text: str, sample: str) -> float:
    """A sample of a /metrics page; 0 if it is not there."""
    found: defaultdict[str, float] = defaultdict(float)
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        if not line.startswith("#"):
            found[name] = float(value)
    return found[sample]
