# SPDX-License-Identifier: Apache-2.0
"""How many sessions a core carries: `scripts/bench transceiver --json FILE`.

A process on one core echoes sessions that another core drives; sessions are added until fewer than 99 % of
the frames leave in time (`load`), by great steps and then anew by small ones. A load counts as too much when
it has been so three times in a row, since what else the machine does comes and goes. Media goes straight to
the process, on loopback: what a relay costs is another bench's business. Rows, in the same run:

    stock              aiortc as it comes: decodes, encodes
    pcm-echo           a transceiver that takes samples to a backend, and speech from it: decodes, encodes
    opus-pass-through  a transceiver with the embedded echo: Opus as it came
    opus-backend       a transceiver that takes Opus to a backend, and back

`cpu_per_session` is the process's CPU time, as a share of a core, at the last load that was carried: it says
nearly the same, and is not moved by what else the machine does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
from earshot.relay.v1 import relay_pb2 as pb
from earshot.relay.v1 import relay_pb2_grpc

from bench.load import Load, connect
from tests.lab.signals import chirps, encode

MEDIA = "127.0.0.3"
IN_TIME = 0.99
SETTLE, SECONDS, TAIL = 1.5, 3.0, 1.0  # what is sent in the tail may still be on its way, and does not count
QUICK = 0.2  # of these, which tells little of speed, but that all is measured
START_TIMEOUT = 20.0
FIRST = {"stock": 10, "pcm-echo": 20, "opus-pass-through": 80, "opus-backend": 40}  # sessions to begin with
STEPS = {"stock": 4, "pcm-echo": 5, "opus-pass-through": 20, "opus-backend": 10}  # more at a time
NEAR = {"stock": 1, "pcm-echo": 1, "opus-pass-through": 5, "opus-backend": 2}  # the second time
PATIENCE = 3  # measurements of a load before it counts as too much


@dataclass
class Row:
    """A row of the result."""

    name: str
    sessions_per_core: int
    cpu_per_session: float
    in_time: float  # share of frames, with that many
    limited_by: str  # "late frames", or "the load" if that had no more to give


class Registrar(relay_pb2_grpc.RelayServiceServicer):
    """A relay that takes every session and has no part in media: its VIP is the transceiver itself."""

    def __init__(self, port: int) -> None:
        self._vip = pb.Endpoint(address=MEDIA, port=port)

    async def Attach(self, requests: Any, _: Any) -> AsyncIterator[pb.AttachResponse]:
        async for request in requests:
            kind = request.WhichOneof("message")
            if kind == "hello":
                yield pb.AttachResponse(welcome=pb.Welcome(relay="bench", vips=[self._vip], max_batch=100))
            elif kind == "snapshot":
                yield pb.AttachResponse(snapshot_result=pb.SnapshotResult())
            else:
                results = [pb.OperationResult() for _ in request.batch.operations]
                answer = pb.BatchResult(batch_id=request.batch.batch_id, results=results)
                yield pb.AttachResponse(batch_result=answer)


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as one:
        one.bind((MEDIA, 0))
        return int(one.getsockname()[1])


@asynccontextmanager
async def process(core: int, ready: bytes, *argv: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Python program on that core, once it has said that it is ready."""
    with tempfile.TemporaryFile() as log:
        started = await asyncio.create_subprocess_exec(
            *("taskset", "-c", str(core), sys.executable, "-m", *argv), stdout=log, stderr=log
        )
        try:
            async with asyncio.timeout(START_TIMEOUT):
                while ready not in os.pread(log.fileno(), 1 << 20, 0):
                    if started.returncode is not None:
                        raise RuntimeError(os.pread(log.fileno(), 1 << 20, 0).decode(errors="replace"))
                    await asyncio.sleep(0.05)
            yield started
        finally:
            if started.returncode is None:
                started.terminate()
                await started.wait()


@asynccontextmanager
async def server(name: str, cores: Sequence[int]) -> AsyncIterator[tuple[int, str]]:
    """What a row measures: its process id, and where to post offers."""
    port = free_port(socket.SOCK_STREAM)
    whip = f"http://127.0.0.1:{port}/whip"
    if name == "stock":
        async with process(cores[0], b"ready", "bench.stock", "127.0.0.1", str(port), MEDIA) as started:
            yield started.pid, whip
        return
    async with AsyncExitStack() as running:
        folder = running.enter_context(tempfile.TemporaryDirectory())
        media = free_port(socket.SOCK_DGRAM)
        registrar = grpc.aio.server()
        relay_pb2_grpc.add_RelayServiceServicer_to_server(Registrar(media), registrar)  # type: ignore[no-untyped-call]
        registrar.add_insecure_port(f"unix:{folder}/relay")
        await registrar.start()
        running.push_async_callback(registrar.stop, None)
        flags = ["--max-load=1", "--max-setups=1000", f"--media-port={media}", f"--media-address={MEDIA}"]
        if name != "opus-pass-through":
            rate = "0" if name == "opus-backend" else "16000"
            listen = f"unix:{folder}/backend"
            argv = ("transceiver.backends.echo", "--listen", listen, "--rate", rate)
            await running.enter_async_context(process(cores[1], b"ready", *argv))
            flags += ["--backend", listen]
        flags += ["--relay", f"unix:{folder}/relay", "--http", f"127.0.0.1:{port}"]
        started = await running.enter_async_context(
            process(cores[0], b"event=ready", "transceiver.main", *flags)
        )
        yield started.pid, whip


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(
    name: str, cores: Sequence[int], most: int, packets: Sequence[bytes], scale: float = 1.0
) -> Row:
    """How many sessions are carried, of `most`; `scale` is of the time that it takes.

    Twice from below, by great steps and then by small ones: what was once asked too much of is not as it was.
    """
    row = Row(name, 0, 0.0, 0.0, "the load")
    first = range(FIRST[name], most, STEPS[name])
    row, too_many = await climb(row, [*first, most] if first else [most], cores, packets, scale)
    if too_many is not None:
        carried = row.sessions_per_core
        near = range(carried or STEPS[name], too_many, NEAR[name] if carried else STEPS[name])
        row, _ = await climb(row, near, cores, packets, scale)
    return row


async def climb(
    row: Row, counts: Sequence[int], cores: Sequence[int], packets: Sequence[bytes], scale: float
) -> tuple[Row, int | None]:
    """The row of the most of these that are carried, or `row`; and how many were too many, if any."""
    settle, seconds, tail = SETTLE * scale, SECONDS * scale, TAIL * scale
    name = row.name
    async with server(name, cores) as (pid, whip), aiohttp.ClientSession() as http:
        load = Load()
        try:
            for count in counts:
                while len(load.sessions) < count:
                    load.sessions.append(await connect(http, whip, packets))
                for _ in range(PATIENCE):
                    before = cpu_seconds(pid)
                    in_time = await load.measure(settle, seconds, tail)
                    share = (cpu_seconds(pid) - before) / (settle + seconds + tail)
                    if in_time >= IN_TIME:
                        break
                print(
                    f"{name}: {count} sessions, {in_time:.2%} in time, {share:.0%} of a core", file=sys.stderr
                )
                if in_time < IN_TIME:
                    limit = "the load" if load.slips > seconds else "late frames"
                    return replace(row, limited_by=limit), count
                row = Row(name, count, round(share / count, 5), round(in_time, 4), row.limited_by)
        finally:
            await load.close()
    return row, None


async def run(names: Sequence[str], most: int, scale: float) -> list[Row]:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("two cores are needed: one to measure, and one to drive it")
    os.sched_setaffinity(0, {cores[1]})
    packets = encode(chirps(1, 10.0))
    return [await measure(name, cores, most, packets, scale) for name in names]


def of_stock(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """How many times the sessions of stock a row carries, and how much of its CPU time each of them takes."""
    stock = {row.name: row for row in rows if row.sessions_per_core}.get("stock")
    return {
        row.name: {
            "sessions": round(row.sessions_per_core / stock.sessions_per_core, 2),
            "cpu": round(row.cpu_per_session / stock.cpu_per_session, 3),
        }
        for row in rows
        if stock is not None and row is not stock
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench transceiver", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument(
        "--rows", nargs="+", choices=STEPS, default=list(STEPS), metavar="ROW", help="only these"
    )
    parser.add_argument("--most", type=int, default=400, metavar="N", help="sessions to stop at (400)")
    parser.add_argument(
        "--quick", action="store_true", help="a fifth of the time: to see that it works, not how fast"
    )
    options = parser.parse_args()
    rows = asyncio.run(run(options.rows, options.most, QUICK if options.quick else 1.0))
    for row in rows:
        print(f"{row.name:18}{row.sessions_per_core:5} sessions, {row.cpu_per_session:.2%} of a core each")
    if options.json:
        result = {"cores_used": 1, "rows": [asdict(row) for row in rows], "of_stock": of_stock(rows)}
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
