# SPDX-License-Identifier: Apache-2.0
"""One run of load through a candidate: what was sent, what arrived, and whose CPU time it took."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench.path.candidates import Ready
from bench.path.traffic import Source

HELPING = 8192  # frames at a time where there is no rate to keep
TICK = 0.001  # seconds between two helpings where there is
DRAIN = 0.005  # seconds after the last helping; what is queued for longer is lost
DEADLINE = 60.0


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
    ready: Ready,
    sources: tuple[Source, Source],
    cpus: Sequence[int],
    seconds: float,
    rate: float | None = None,
    *,
    tick: float = TICK,
) -> Run:
    """Load from these CPUs at the same time, each in both directions in turn.

    rate: packets a second, None for as many as the generators can make. Kept with real-time
        priority: who sends at a rate is not to wait for who receives.
    """
    tasks = _tasks(ready)
    right, wrong = counted(ready)
    used = _cpu_seconds(tasks)
    started = time.monotonic()
    with ThreadPoolExecutor(len(cpus)) as pool:
        if rate is None:
            running = [pool.submit(_flat_out, cpu, sources, seconds) for cpu in cpus]
        else:
            running = [pool.submit(_paced, cpu, sources, seconds, rate / len(cpus), tick) for cpu in cpus]
        done = [future.result(DEADLINE) for future in running]
    elapsed = time.monotonic() - started
    time.sleep(DRAIN)
    new_right, new_wrong = counted(ready)
    used = _cpu_seconds(tasks) - used + sum(own for _, own in done)
    return Run(sum(sent for sent, _ in done), new_right - right, new_wrong - wrong, elapsed, used)


def _flat_out(cpu: int, sources: tuple[Source, Source], seconds: float) -> tuple[int, float]:
    """In a thread of its own. Returns frames sent, and CPU time."""
    os.sched_setaffinity(0, {cpu})
    used, started, sent = time.thread_time(), time.monotonic(), 0
    while time.monotonic() - started < seconds:
        for source in sources:
            source.send(HELPING)
            sent += HELPING
    return sent, time.thread_time() - used


def _paced(
    cpu: int, sources: tuple[Source, Source], seconds: float, rate: float, tick: float
) -> tuple[int, float]:
    """In a thread of its own. Returns frames sent, and CPU time."""
    os.sched_setaffinity(0, {cpu})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    used, started = time.thread_time(), time.monotonic()
    sent = turn = 0
    total = int(seconds * rate)
    while sent < total:
        elapsed = time.monotonic() - started
        # Far behind: the machine does not make this rate. Then it is not asked to make up for it.
        if elapsed > 2 * seconds:
            break
        due = min(total, int(elapsed * rate) + 1)
        if due > sent:
            sources[turn % 2].send(due - sent)
            turn += 1
            sent = due
        time.sleep(tick)
    return sent, time.thread_time() - used


def counted(ready: Ready) -> tuple[int, int]:
    """Packets that have come so far as they ought to, and others."""
    (up_right, up_wrong), (down_right, down_wrong) = ready.up_sink.counts(), ready.down_sink.counts()
    return up_right + down_right, up_wrong + down_wrong


def _tasks(ready: Ready) -> list[Path]:
    """Threads of the candidate, and the kernel's that take over where soft interrupts last too long."""
    kernel = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):  # others' processes end meanwhile
            if path.read_text().startswith("ksoftirqd/"):
                kernel.append(path.parent)
    tasks = [task for pid in ready.pids for task in Path(f"/proc/{pid}/task").iterdir()]
    return [*kernel, *tasks]


def _cpu_seconds(tasks: list[Path]) -> float:
    """Of these threads so far. What the kernel does to a packet in soft interrupts counts to the thread
    that sent it, since that one is interrupted."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
