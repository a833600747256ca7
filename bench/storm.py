# SPDX-License-Identifier: Apache-2.0
"""A reconnect storm: how fast a daemon takes sessions in, and how long others wait meanwhile.

A process of its own registers all sessions over one Attach stream or several, each on a connection of its
own, as transceivers do after they have lost their relay: a snapshot in parts, each sent when the one before
is answered. The calling process asks for counters and health meanwhile.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import grpc
from earshot.relay.v1 import relay_pb2 as pb
from earshot.relay.v1 import relay_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.lab.topology import IPV4

PART = 1000
ENDPOINTS = 100
TIMEOUT = 60.0
PAUSE = 0.002  # seconds


class Probe(NamedTuple):
    """Milliseconds that calls of one kind took."""

    calls: int
    median_ms: float
    longest_ms: float


class Stream(NamedTuple):
    """What one transceiver has to say."""

    name: str
    parts: list[bytes]


class Done(NamedTuple):
    """What came of a storm: from the first part sent to the last answer."""

    seconds: float
    refused: int


def streams_of(count: int, sessions: int, first: int = 0) -> list[Stream]:
    """So many transceivers, each with its share of the sessions, on the wire."""
    share = -(-sessions // count)
    return [
        Stream(
            f"bench-{number}",
            _snapshot(range(first + number * share, first + min(sessions, (number + 1) * share))),
        )
        for number in range(count)
    ]


def _snapshot(numbers: range) -> list[bytes]:
    """The parts of a snapshot."""
    made = []
    for start in range(0, len(numbers), PART):
        part = [
            pb.Session(
                session_id=f"session-{number}",
                credentials=[pb.Credential(ufrag=f"u{number:07}", pwd=f"{number:024}")],
                endpoints=[pb.Endpoint(address=IPV4.transceiver, port=10000 + number % ENDPOINTS)],
            )
            for number in numbers[start : start + PART]
        ]
        last = start + PART >= len(numbers)
        made.append(pb.AttachRequest(snapshot=pb.Snapshot(sessions=part, last=last)).SerializeToString())
    return made


def _register(target: str, stream: Stream, barrier: threading.Barrier, ended: threading.Event) -> int:
    """In a thread of its own: one transceiver, which stays until the end. Returns how many were refused."""
    answered = threading.Semaphore(0)
    hello = pb.AttachRequest(hello=pb.Hello(transceiver=stream.name)).SerializeToString()

    def requests() -> Iterator[bytes]:
        yield hello
        for request in stream.parts:
            answered.acquire()
            yield request
        ended.wait()

    # A connection of its own, as a process of its own would have.
    with grpc.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        responses = channel.stream_stream(
            "/earshot.relay.v1.RelayService/Attach", response_deserializer=pb.AttachResponse.FromString
        )(requests(), timeout=TIMEOUT)
        next(responses)
        barrier.wait()  # all are attached
        barrier.wait()  # off they go
        refused = 0
        for _ in stream.parts:
            answered.release()
            refused += sum(result.code != 0 for result in next(responses).snapshot_result.results)
        barrier.wait()  # all are done
        ended.wait()
        responses.cancel()
    return refused


def _storm(target: str, count: int, sessions: int, first: int, pipe: Connection) -> None:
    """In a process of its own: attaches, registers on a word from `pipe`, says what came of it."""
    streams = streams_of(count, sessions, first)
    barrier, ended = threading.Barrier(count + 1), threading.Event()
    refused: list[int] = []
    threads = [
        threading.Thread(target=lambda one=stream: refused.append(_register(target, one, barrier, ended)))
        for stream in streams
    ]
    for thread in threads:
        thread.start()
    barrier.wait(TIMEOUT)
    pipe.send("attached")
    pipe.recv()
    barrier.wait(TIMEOUT)
    start = time.perf_counter()
    barrier.wait(TIMEOUT)
    seconds = time.perf_counter() - start
    ended.set()
    for thread in threads:
        thread.join(TIMEOUT)
    pipe.send(Done(seconds, sum(refused)))


@contextmanager
def storm(target: str, streams: int, sessions: int, first: int = 0) -> Iterator[Connection]:
    """Transceivers that are attached: a word to them sets them off, and then `Done` comes."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_storm, args=(target, streams, sessions, first, there), daemon=True
    )
    process.start()
    try:
        if not here.poll(TIMEOUT):
            raise RuntimeError("the transceivers did not attach")
        here.recv()
        yield here
        process.join(TIMEOUT)
    finally:
        process.kill()


@contextmanager
def calls(target: str) -> Iterator[dict[str, Callable[[], Any]]]:
    """What anyone may ask of a relay."""
    with grpc.insecure_channel(target) as channel:
        relay: Any = relay_pb2_grpc.RelayServiceStub(channel)  # type: ignore[no-untyped-call]
        health = health_pb2_grpc.HealthStub(channel)
        yield {
            "GetCounters": lambda: relay.GetCounters(pb.GetCountersRequest(), timeout=TIMEOUT),
            "health": lambda: health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT),
        }


def probe(calls: dict[str, Callable[[], Any]], done: Callable[[], bool]) -> dict[str, Probe]:
    """Makes these calls in turn until done, with a pause between them: they are not to be the load."""
    took: dict[str, list[float]] = {name: [] for name in calls}
    while not done():
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            took[name].append(1e3 * (time.perf_counter() - start))
            time.sleep(PAUSE)
    return {
        name: Probe(len(times), round(median(times), 2), round(max(times), 2)) for name, times in took.items()
    }


def probe_for(calls: dict[str, Callable[[], Any]], seconds: float) -> dict[str, Probe]:
    """Makes these calls for so long."""
    end = time.monotonic() + seconds
    return probe(calls, lambda: time.monotonic() > end)


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, all of its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
