# SPDX-License-Identifier: Apache-2.0
"""One row of the bench: the relay beside a no-op and beside nothing, in the same run."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

from bench.driver import BUILD, Driver, Stream
from bench.tables import Table
from control import libbpf
from control.abi import Reason


@dataclass(frozen=True)
class Row:
    """One line of the result. Times in nanoseconds a packet."""

    name: str
    flows: int
    ns: float
    noop_ns: float
    ratio: float
    driver_ns: float
    net_ns: float
    net_noop_ns: float


@dataclass(frozen=True)
class Effort:
    """Packets a run, and runs a row; before each, packets that are not timed and warm the caches."""

    repeat: int
    rounds: int
    warm_up: int = 0


class Noops:
    """The programs that the relay is measured beside."""

    def __init__(self) -> None:
        with libbpf.BpfObject(BUILD / "noop.bpf.o") as program:
            program.load()
            self.noop, self.nothing = (os.dup(program.program_fd(name)) for name in ("noop", "nothing"))

    def close(self) -> None:
        os.close(self.noop)
        os.close(self.nothing)


def measure(
    name: str,
    table: Table,
    stream: Stream,
    reasons: Sequence[Reason],
    effort: Effort,
    *,
    prepare: Callable[[], None] | None = None,
) -> Row:
    """Runs the three programs in turn.

    prepare: before each run of the relay, untimed. With it, the calling thread is in a host of its own.

    Raises:
        RuntimeError: a packet was counted under another reason than these.
    """
    repeat, rounds = effort.repeat, effort.rounds
    before = table.datapath.reasons()["packets"]
    times: dict[str, list[float]] = {"relay": [], "noop": [], "nothing": []}
    with closing(Noops()) as noops, closing(Driver(table.shape, stream)) as driver, ExitStack() as stack:
        if prepare:
            stack.enter_context(driver.attached_to_lo())

        def run(program_fd: int) -> float:
            if effort.warm_up:
                driver.run(program_fd, effort.warm_up)
            return driver.run(program_fd, repeat, effort.warm_up)

        for _ in range(rounds):
            times["nothing"].append(run(noops.nothing))
            times["noop"].append(run(noops.noop))
            if prepare:
                prepare()
            times["relay"].append(run(table.program_fd))
    sent = (repeat + effort.warm_up) * rounds
    moved = table.datapath.reasons()["packets"] - before
    counted = sum(int(moved[reason]) for reason in reasons)
    if counted != sent or int(moved.sum()) != counted:
        strays = {Reason(number).name: int(moved[number]) for number in moved.nonzero()[0]}
        raise RuntimeError(f"{name}: {counted} of {sent} packets took the path: {strays}")
    relay, noop, nothing = (statistics.median(times[key]) for key in ("relay", "noop", "nothing"))
    values = (relay, noop, relay / noop, nothing, relay - nothing, noop - nothing)
    return Row(name, table.shape.flows, *(round(value, 2) for value in values))
