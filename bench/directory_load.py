# SPDX-License-Identifier: Apache-2.0
"""Transceivers at one relay, in a process of their own: they register sessions, and change some of them."""

from __future__ import annotations

import multiprocessing
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import grpc
from earshot.relay.v1 import relay_pb2 as pb

from tests.lab.fleet import TRANSCEIVERS

PART = 1000
PERIOD = 0.1  # seconds between two batches of a transceiver
ENDPOINTS = 100
TIMEOUT = 900.0


def session(relay: int, number: int) -> pb.Session:
    """A session of this relay's transceivers; its id and ufrag follow from the numbers."""
    return pb.Session(
        session_id=f"s{relay}-{number}",
        credentials=[pb.Credential(ufrag=f"r{relay}u{number:08}", pwd=f"{number:024}")],
        endpoints=[pb.Endpoint(address=TRANSCEIVERS, port=10000 + number % ENDPOINTS)],
    )


class Transceiver:
    """One of them, in a thread: says what there is to say when the answer to the last thing is there."""

    def __init__(self, target: str, relay: int, name: str, numbers: range) -> None:
        self._target = target
        self._relay = relay
        self._name = name
        self._numbers = numbers
        self.registered = threading.Event()
        self.going = threading.Event()
        self.ended = threading.Event()
        self.per_second = self.phase = 0.0  # phase: of its period, so that not all say something at once
        self.changes = self.refused = 0
        self._requests: queue.SimpleQueue[pb.AttachRequest | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(self._target, options=options) as channel:
            responses: Any = channel.stream_stream(
                "/earshot.relay.v1.RelayService/Attach",
                request_serializer=pb.AttachRequest.SerializeToString,
                response_deserializer=pb.AttachResponse.FromString,
            )(iter(self._requests.get, None), timeout=TIMEOUT)
            self._requests.put(pb.AttachRequest(hello=pb.Hello(transceiver=self._name)))
            next(responses)
            self._register(responses)
            self.registered.set()
            self.going.wait()
            self._change(responses)
            self._requests.put(None)
            responses.cancel()

    def _register(self, responses: Iterator[pb.AttachResponse]) -> None:
        for start in range(0, len(self._numbers), PART):
            numbers = self._numbers[start : start + PART]
            sessions = [session(self._relay, number) for number in numbers]
            snapshot = pb.Snapshot(sessions=sessions, last=start + PART >= len(self._numbers))
            self._requests.put(pb.AttachRequest(snapshot=snapshot))
            self.refused += sum(one.code != 0 for one in next(responses).snapshot_result.results)

    def _change(self, responses: Iterator[pb.AttachResponse]) -> None:
        """Old sessions go, new ones come; there are always as many."""
        oldest, newest = self._numbers.start, self._numbers.start + 10_000_000
        due, owed = time.monotonic() + self.phase * PERIOD, 0.0
        time.sleep(self.phase * PERIOD)
        while not self.ended.is_set():
            due += PERIOD
            owed += self.per_second * PERIOD
            pairs, owed = int(owed / 2), owed - 2 * int(owed / 2)
            operations = []
            for _ in range(pairs):
                remove = pb.Remove(session_id=f"s{self._relay}-{oldest}")
                operations += [pb.Operation(remove=remove), pb.Operation(add=session(self._relay, newest))]
                oldest, newest = oldest + 1, newest + 1
                if oldest == self._numbers.stop:
                    oldest = self._numbers.start + 10_000_000
            if operations:
                self._requests.put(pb.AttachRequest(batch=pb.Batch(operations=operations)))
                self.refused += sum(one.code != 0 for one in next(responses).batch_result.results)
                self.changes += len(operations)
            time.sleep(max(0.0, due - time.monotonic()))


class Load(NamedTuple):
    """A process full of transceivers."""

    pipe: Connection
    pid: int


def _load(target: str, relay: int, count: int, sessions: int, pipe: Connection) -> None:
    share = -(-sessions // count)
    transceivers = [
        Transceiver(target, relay, f"t{relay}-{n}", range(n * share, min(sessions, (n + 1) * share)))
        for n in range(count)
    ]
    for one in transceivers:
        one.thread.start()
    for one in transceivers:
        one.registered.wait()
    pipe.send("registered")
    per_second = pipe.recv()
    for number, one in enumerate(transceivers):
        one.phase = number / count
        one.per_second = per_second / count
        one.going.set()
    pipe.recv()
    for one in transceivers:
        one.ended.set()
    for one in transceivers:
        one.thread.join()
    pipe.send((sum(one.changes for one in transceivers), sum(one.refused for one in transceivers)))


@contextmanager
def load(target: str, relay: int, count: int, sessions: int) -> Iterator[Load]:
    """So many transceivers with so many sessions in all.

    The pipe says "registered"; told a rate, they change so many sessions a second until it is told anything
    else; then it says how many those were, and how many were refused.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_load, args=(target, relay, count, sessions, there))
    process.start()
    try:
        yield Load(here, process.pid or 0)
    finally:
        process.kill()
        process.join()
