# SPDX-License-Identifier: Apache-2.0
"""One row of the bench: the relay beside a no-op and beside nothing, in the same run."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

from bench.driver import BUILD, Driver, Stream
from bench.tables import Table
from control import libbpf
from control.abi import Reason
from control.libbpf import Array


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

    def run(driver: Driver, program_fd: int) -> float:
        if effort.warm_up:
            driver.run(program_fd, effort.warm_up)
        return driver.run(program_fd, effort.repeat, effort.warm_up)

    before = table.datapath.reasons()["packets"]
    times: dict[str, list[float]] = {"relay": [], "noop": [], "nothing": []}
    with closing(Noops()) as noops, closing(Driver(table.shape, stream)) as driver, ExitStack() as stack:
        if prepare:
            stack.enter_context(driver.attached_to_lo())
        for _ in range(effort.rounds):
            times["nothing"].append(run(driver, noops.nothing))
            times["noop"].append(run(driver, noops.noop))
            if prepare:
                prepare()
            times["relay"].append(run(driver, table.program_fd))
    _check_path(name, table, before, (effort.repeat + effort.warm_up) * effort.rounds, reasons)
    return _row(name, table, *(times[key] for key in ("relay", "noop", "nothing")))


def measure_both(
    name: str, tables: Mapping[str, Table], stream: Stream, reasons: Sequence[Reason], effort: Effort
) -> list[Row]:
    """Relays that differ in one thing, in turn on the same packets: a row for each, `name`/KEY.

    The first packets of each flow are not timed: what is measured is that of a call that goes on.

    Raises:
        RuntimeError: a packet was counted under another reason than these.
    """
    before = {key: table.datapath.reasons()["packets"] for key, table in tables.items()}
    times: dict[str, list[float]] = {key: [] for key in tables}
    noop: list[float] = []
    nothing: list[float] = []
    shape = next(iter(tables.values())).shape
    sent = 4 * shape.flows
    with closing(Noops()) as noops, closing(Driver(shape, stream)) as driver:
        for table in tables.values():
            driver.run(table.program_fd, sent)
        for _ in range(effort.rounds):
            nothing.append(driver.run(noops.nothing, effort.repeat, sent))
            noop.append(driver.run(noops.noop, effort.repeat, sent))
            for key, table in tables.items():
                times[key].append(driver.run(table.program_fd, effort.repeat, sent))
            sent += effort.repeat
    for key, table in tables.items():
        _check_path(f"{name}/{key}", table, before[key], sent, reasons)
    return [_row(f"{name}/{key}", table, times[key], noop, nothing) for key, table in tables.items()]


def _check_path(name: str, table: Table, before: Array, sent: int, reasons: Sequence[Reason]) -> None:
    moved = table.datapath.reasons()["packets"] - before
    counted = sum(int(moved[reason]) for reason in reasons)
    if counted != sent or int(moved.sum()) != counted:
        strays = {Reason(number).name: int(moved[number]) for number in moved.nonzero()[0].tolist()}
        raise RuntimeError(f"{name}: {counted} of {sent} packets took the path: {strays}")


def _row(name: str, table: Table, *times: Sequence[float]) -> Row:
    """times: the relay's, the no-op's, and those of the program that does nothing."""
    relay, noop, nothing = map(statistics.median, times)
    values = (relay, noop, relay / noop, nothing, relay - nothing, noop - nothing)
    return Row(name, table.shape.flows, *(round(value, 2) for value in values))
