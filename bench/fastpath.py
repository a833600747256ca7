# SPDX-License-Identifier: Apache-2.0
"""Nanoseconds a packet on the fast path, beside a no-op in the same run.

    scripts/bench --json FILE

Three programs are run in turn behind the same driver (driver.bpf.c), which makes each packet
one of another flow: the relay, a no-op that rewrites the headers it touches (noop.bpf.c), and
one that does nothing. Each row has the medians of all rounds:

    ns, noop_ns             the whole: test-run loop, driver, and program
    ratio                   ns / noop_ns
    driver_ns               loop and driver alone, by the program that does nothing
    net_ns, net_noop_ns     ns and noop_ns less driver_ns

That every packet took the path that its row is named after is checked by the relay's counters.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path

from bench import binding
from bench.driver import BUILD, Driver
from bench.tables import Shape, Table
from control import libbpf
from control.abi import Reason

# Relay addresses and ports on each, by the number of flows; the tables are no larger.
SHAPES = {"1k": (1, 1000), "100k": (2, 50_000), "1M": (16, 64_512)}


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
class Traffic:
    """A kind of packet on an established table, and the reasons that the relay must count."""

    name: str
    family: int
    reasons: tuple[Reason, ...]
    up: int = 256
    strange: bool = False


PATHS = (
    Traffic("established/up/v4", 4, (Reason.FORWARD_TO_TRANSCEIVER,)),
    Traffic("established/down/v4", 4, (Reason.FORWARD_TO_CLIENT,), up=0),
    Traffic("established/mixed/v4", 4, (Reason.FORWARD_TO_TRANSCEIVER, Reason.FORWARD_TO_CLIENT), up=128),
    Traffic("established/up/v6", 6, (Reason.FORWARD_TO_TRANSCEIVER,)),
    Traffic("established/down/v6", 6, (Reason.FORWARD_TO_CLIENT,), up=0),
    Traffic("established/mixed/v6", 6, (Reason.FORWARD_TO_TRANSCEIVER, Reason.FORWARD_TO_CLIENT), up=128),
    Traffic("drop/no-flow/v4", 4, (Reason.DROP_NO_FLOW,), strange=True),
)


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
    driver: Driver,
    noops: Noops,
    reasons: Sequence[Reason],
    *,
    repeat: int,
    rounds: int,
    prepare: Callable[[], None] | None = None,
) -> Row:
    """Runs the three programs in turn. prepare: before each run of the relay, untimed."""
    before = table.datapath.reasons()["packets"]
    times: dict[str, list[float]] = {"relay": [], "noop": [], "nothing": []}
    for _ in range(rounds):
        times["nothing"].append(driver.run(noops.nothing, repeat))
        times["noop"].append(driver.run(noops.noop, repeat))
        if prepare:
            prepare()
        times["relay"].append(driver.run(table.program_fd, repeat))
    moved = table.datapath.reasons()["packets"] - before
    counted = sum(int(moved[reason]) for reason in reasons)
    if counted != repeat * rounds or int(moved.sum()) != counted:
        strays = {Reason(number).name: int(moved[number]) for number in moved.nonzero()[0]}
        raise RuntimeError(f"{name}: {counted} of {repeat * rounds} packets took the path: {strays}")
    relay, noop, nothing = (statistics.median(times[key]) for key in ("relay", "noop", "nothing"))
    values = (relay, noop, relay / noop, nothing, relay - nothing, noop - nothing)
    return Row(name, table.shape.flows, *(round(value, 2) for value in values))


def established(
    sizes: Sequence[str], wanted: Callable[[str], bool], *, repeat: int, rounds: int
) -> Iterator[Row]:
    """All rows of PATHS that are wanted, by size and family, so that each table is made once."""
    with closing(Noops()) as noops:
        for size in sizes:
            for family in (4, 6):
                paths = [path for path in PATHS if path.family == family and wanted(path.name)]
                if not paths:
                    continue
                with closing(Table(Shape(family, *SHAPES[size]))) as table:
                    table.fill()
                    for path in paths:
                        with closing(Driver(table.shape, up=path.up, strange=path.strange)) as driver:
                            yield measure(
                                path.name, table, driver, noops, path.reasons, repeat=repeat, rounds=rounds
                            )


def bind(*, repeat: int, rounds: int) -> Iterator[Row]:
    """New flows in a table that is empty at first and at most three quarters full at last."""
    shape = Shape(4, 1, SHAPES["1M"][1])
    count = min(repeat, shape.span * 3 // 4)
    with closing(Noops()) as noops, closing(Table(shape)) as table, binding.host() as clients:
        table.let_bind(clients)
        with closing(Driver(shape, in_turn=True, payload=binding.REQUEST)) as driver:
            yield measure(
                "bind/new/v4",
                table,
                driver,
                noops,
                (Reason.FORWARD_BOUND,),
                repeat=count,
                rounds=rounds,
                prepare=table.empty,
            )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description="Times the relay's fast path by test runs."
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there, too")
    parser.add_argument("--rows", default="*", metavar="GLOB", help="only rows of these names")
    parser.add_argument("--sizes", default=",".join(SHAPES), help="of the flow table (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=1_000_000, help="packets a run (default: %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=7, help="runs a row; the median counts (default: %(default)s)"
    )
    parser.add_argument(
        "--cpu", type=int, default=max(os.sched_getaffinity(0)), help="to run on (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    sizes = options.sizes.split(",")
    if unknown := set(sizes) - set(SHAPES):
        parser.error(f"no such size: {', '.join(sorted(unknown))}")
    os.sched_setaffinity(0, {options.cpu})

    def wanted(name: str) -> bool:
        return fnmatch(name, options.rows)

    rows: list[Row] = []
    print(f"{'row':24}{'flows':>10}{'ns':>9}{'no-op':>9}{'ratio':>8}{'driver':>9}{'net':>9}{'net no-op':>11}")
    sources = [established(sizes, wanted, repeat=options.repeat, rounds=options.rounds)]
    if wanted("bind/new/v4"):
        sources.append(bind(repeat=options.repeat, rounds=options.rounds))
    for source in sources:
        for row in source:
            rows.append(row)
            print(
                f"{row.name:24}{row.flows:>10,}{row.ns:>9.1f}{row.noop_ns:>9.1f}{row.ratio:>8.1f}"
                f"{row.driver_ns:>9.1f}{row.net_ns:>9.1f}{row.net_noop_ns:>11.1f}",
                flush=True,
            )
    if options.json:
        result = {
            "kernel": platform.release(),
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "repeat": options.repeat,
            "rounds": options.rounds,
            "rows": [asdict(row) for row in rows],
        }
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
