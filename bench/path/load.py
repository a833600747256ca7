# SPDX-License-Identifier: Apache-2.0
"""One run of load through a candidate: what was sent, what arrived, and whose CPU time it took."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.path.candidates import Ready
from bench.path.traffic import Source

HELPING = 8192  # frames at a time where there is no rate to keep
TICK = 0.0002  # seconds between two helpings where there is
DRAIN = 0.005  # seconds after the last helping; what is queued for longer is lost


@dataclass(frozen=True)
class Run:
    """wrong: packets that arrived with another address or port than they should.

    cpu_seconds: of the generator, what it calls (all XDP and kernel forwarding), the candidate's
        processes, and the kernel's threads for the backlog.
    """

    sent: int
    right: int
    wrong: int
    seconds: float
    cpu_seconds: float

    @property
    def loss(self) -> float:
        """The share of what was sent that did not arrive, or arrived late."""
        return 1 - self.right / self.sent

    @property
    def rate(self) -> float:
        """Packets a second, as sent."""
        return self.sent / self.seconds

    @property
    def ns(self) -> float:
        """Nanoseconds of CPU for each packet that arrived."""
        return 1e9 * self.cpu_seconds / self.right if self.right else float("inf")


def run(
    ready: Ready, sources: tuple[Source, ...], seconds: float, rate: float | None = None, *, cpu: int
) -> Run:
    """Load in all directions in turn, by the calling thread, on one CPU.

    rate: packets a second, None for as many as the generator can make. Kept with real-time
        priority: who sends at a rate is not to wait for who receives.
    """
    tasks = _tasks(ready)
    right, wrong = _arrived(ready)
    used = _cpu_seconds(tasks)
    started = time.monotonic()
    with pinned(cpu):
        if rate is None:
            sent = _flat_out(sources, seconds, started)
        else:
            with _real_time():
                sent = _paced(sources, seconds, rate, started)
    elapsed = time.monotonic() - started
    time.sleep(DRAIN)
    new_right, new_wrong = _arrived(ready)
    used = _cpu_seconds(tasks) - used
    return Run(sent, new_right - right, new_wrong - wrong, elapsed, used)


def _flat_out(sources: tuple[Source, ...], seconds: float, started: float) -> int:
    sent = 0
    while time.monotonic() - started < seconds:
        for source in sources:
            source.send(HELPING)
            sent += HELPING
    return sent


def _paced(sources: tuple[Source, ...], seconds: float, rate: float, started: float) -> int:
    sent = turn = 0
    total = int(seconds * rate)
    while sent < total:
        elapsed = time.monotonic() - started
        due = min(total, int(elapsed * rate) + 1)
        # Far behind: the machine does not make this rate. Then it is not asked to make up for it.
        if elapsed > 2 * seconds:
            break
        if due > sent:
            sources[turn % len(sources)].send(due - sent)
            turn += 1
            sent = due
        time.sleep(TICK)
    return sent


@contextmanager
def pinned(cpu: int) -> Iterator[None]:
    """The calling thread is on that CPU; children that it starts elsewhere in time are not."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def _real_time() -> Iterator[None]:
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


def _arrived(ready: Ready) -> tuple[int, int]:
    (up_right, up_wrong), (down_right, down_wrong) = ready.up_sink.counts(), ready.down_sink.counts()
    return up_right + down_right, up_wrong + down_wrong


def _tasks(ready: Ready) -> list[Path]:
    """Threads of the candidate, and the kernel's that take over where soft interrupts last too long."""
    kernel = [
        path.parent for path in Path("/proc").glob("[0-9]*/comm") if path.read_text().startswith("ksoftirqd/")
    ]
    tasks = [task for pid in ready.pids for task in Path(f"/proc/{pid}/task").iterdir()]
    return [*kernel, *tasks]


def _cpu_seconds(tasks: list[Path]) -> float:
    """Of the calling thread and these. Soft interrupts count to whom they interrupt: with one CPU's load of
    packets that is the thread that sent them."""
    others = sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)
    return time.thread_time() + others / 1e9
