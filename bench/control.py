# SPDX-License-Identifier: Apache-2.0
"""Times a reconnect storm: how fast a daemon takes sessions in, and how long others wait meanwhile.

earshotd runs on a CPU of its own, in a host of tests/lab. A process beside it registers all sessions over
one Attach stream, as a transceiver does after it has lost its relay: a snapshot in parts, each sent
when the one before is answered. This process calls GetCounters and the health service
all the time, one call after the other.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import grpc
from earshot.relay.v1 import relay_pb2 as pb
from earshot.relay.v1 import relay_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.lab.netns import Lab
from tests.lab.services import relay_target, start_relay
from tests.lab.topology import IPV4, two_armed

PART = 1000
ENDPOINTS = 100
QUIET_SECONDS = 2.0
TIMEOUT = 60.0


class Probe(NamedTuple):
    """Milliseconds that calls of one kind took."""

    calls: int
    median_ms: float
    longest_ms: float


def snapshot(sessions: int) -> list[bytes]:
    """The parts of a snapshot, on the wire."""
    made = []
    for start in range(0, sessions, PART):
        part = [
            pb.Session(
                session_id=f"session-{number}",
                credentials=[pb.Credential(ufrag=f"u{number:07}", pwd=f"{number:024}")],
                endpoints=[pb.Endpoint(address=IPV4.transceiver, port=10000 + number % ENDPOINTS)],
            )
            for number in range(start, min(start + PART, sessions))
        ]
        last = start + PART >= sessions
        made.append(pb.AttachRequest(snapshot=pb.Snapshot(sessions=part, last=last)).SerializeToString())
    return made


def register(target: str, sessions: int, pipe: Connection) -> None:
    """In a process of its own: attaches, then registers on a word from `pipe`, and says how long it took."""
    parts = snapshot(sessions)
    hello = pb.AttachRequest(hello=pb.Hello(transceiver="bench")).SerializeToString()
    with grpc.insecure_channel(target) as channel:
        answered = multiprocessing.get_context().SimpleQueue()

        def requests() -> Iterator[bytes]:
            for request in (hello, *parts):
                yield request
                answered.get()

        responses = channel.stream_stream(
            "/earshot.relay.v1.RelayService/Attach", response_deserializer=pb.AttachResponse.FromString
        )(requests(), timeout=TIMEOUT)
        next(responses)
        pipe.send("attached")
        pipe.recv()
        start = time.perf_counter()
        refused = 0
        for _ in parts:
            answered.put(None)
            refused += sum(result.code != 0 for result in next(responses).snapshot_result.results)
        pipe.send((time.perf_counter() - start, refused))
        pipe.recv()
        responses.cancel()
        answered.put(None)


def probe(calls: dict[str, Callable[[], Any]], done: Callable[[], bool]) -> dict[str, Probe]:
    """Makes these calls in turn until done."""
    took: dict[str, list[float]] = {name: [] for name in calls}
    while not done():
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            took[name].append(1e3 * (time.perf_counter() - start))
    return {
        name: Probe(len(times), round(median(times), 2), round(max(times), 2)) for name, times in took.items()
    }


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, all of its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(sessions: int, cpu: int) -> dict[str, Any]:
    """One storm against a fresh daemon."""
    with Lab() as lab:
        site = two_armed(lab)
        daemon = start_relay(site, f"--max-sessions={2 * sessions}")
        for task in Path(f"/proc/{daemon.pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {cpu})
        target = relay_target(site)
        here, there = multiprocessing.Pipe()
        storm = multiprocessing.get_context("spawn").Process(
            target=register, args=(target, sessions, there), daemon=True
        )
        storm.start()
        with grpc.insecure_channel(target) as channel:
            relay: Any = relay_pb2_grpc.RelayServiceStub(channel)  # type: ignore[no-untyped-call]
            health = health_pb2_grpc.HealthStub(channel)
            calls = {
                "GetCounters": lambda: relay.GetCounters(pb.GetCountersRequest(), timeout=TIMEOUT),
                "health": lambda: health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT),
            }
            here.recv()
            end = time.monotonic() + QUIET_SECONDS
            quiet = probe(calls, lambda: time.monotonic() > end)
            used = cpu_seconds(daemon.pid)
            here.send("go")
            busy = probe(calls, here.poll)
            used = cpu_seconds(daemon.pid) - used
            seconds, refused = here.recv()
            here.send("end")
            storm.join(TIMEOUT)
    if refused:
        raise RuntimeError(f"{refused} sessions were refused")
    return {
        "sessions": sessions,
        "seconds": round(seconds, 3),
        "daemon_cpu_seconds": round(used, 3),
        "quiet": {name: one._asdict() for name, one in quiet.items()},
        "busy": {name: one._asdict() for name, one in busy.items()},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/bench control", description="Times the registration of sessions."
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there, too")
    parser.add_argument("--sessions", type=int, default=50_000, help="to register (default: %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=3, help="storms, each its own daemon (default: %(default)s)"
    )
    parser.add_argument(
        "--cpu", type=int, default=max(os.sched_getaffinity(0)), help="of the daemon (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    if others := os.sched_getaffinity(0) - {options.cpu}:
        os.sched_setaffinity(0, others)
    rows = []
    for _ in range(options.rounds):
        row = measure(options.sessions, options.cpu)
        rows.append(row)
        waits = ", ".join(
            f"{name} {row[state][name]['longest_ms']:.1f} ms {state}"
            for name in row["busy"]
            for state in ("busy", "quiet")
        )
        print(
            f"{row['sessions']:,} sessions in {row['seconds']:.2f} s "
            f"({row['daemon_cpu_seconds']:.2f} s of CPU); longest calls: {waits}",
            flush=True,
        )
    if options.json:
        result = {
            "kernel": platform.release(),
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "rounds": options.rounds,
            "rows": rows,
        }
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
