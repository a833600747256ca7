# SPDX-License-Identifier: Apache-2.0
"""Nanoseconds a packet, beside a no-op in the same run.

    scripts/bench --json FILE

Three programs are run in turn behind the same driver (driver.bpf.c), which makes each packet
one of another flow: the relay, a no-op that rewrites the headers it touches (noop.bpf.c), and
one that does nothing. Each row has the medians of all rounds:

    ns, noop_ns             the whole: test-run loop, driver, and program
    ratio                   ns / noop_ns
    driver_ns               loop and driver alone, by the program that does nothing
    net_ns, net_noop_ns     ns and noop_ns less driver_ns

Rows named media/ are twice there, with the quality of flows measured and without; all others are without.
That every packet took the path that its row is named after is checked by the relay's counters.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path

from bench import binding, quality
from bench.driver import Stream
from bench.measure import Effort, Row, measure
from bench.tables import Shape, Table
from control.abi import Reason

# Relay addresses and ports on each, by the number of flows; the tables are no larger.
SHAPES = {"1k": (1, 1000), "100k": (2, 50_000), "1M": (16, 64_512)}


@dataclass(frozen=True)
class Traffic:
    """A kind of packet on an established table, and the reasons that the relay must count."""

    name: str
    family: int
    reasons: tuple[Reason, ...]
    stream: Stream


_UP, _DOWN = Reason.FORWARD_TO_TRANSCEIVER, Reason.FORWARD_TO_CLIENT
PATHS = (
    *(
        Traffic(f"established/{way}/v{family}", family, reasons, Stream(up=up))
        for family in (4, 6)
        for way, reasons, up in (("up", (_UP,), 256), ("down", (_DOWN,), 0), ("mixed", (_UP, _DOWN), 128))
    ),
    Traffic("reject/no-flow", 4, (Reason.DROP_NO_FLOW,), Stream(scattered=True)),
)


def established(sizes: Sequence[str], wanted: Callable[[str], bool], effort: Effort) -> Iterator[Row]:
    """All rows of PATHS that are wanted, by size and family, so that each table is made once."""
    for size in sizes:
        for family in (4, 6):
            paths = [path for path in PATHS if path.family == family and wanted(path.name)]
            if not paths:
                continue
            with closing(Table(Shape(family, *SHAPES[size]))) as table:
                table.fill()
                for path in paths:
                    yield measure(path.name, table, path.stream, path.reasons, effort)


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

    effort = Effort(options.repeat, options.rounds)
    rows: list[Row] = []
    print(f"{'row':24}{'flows':>10}{'ns':>9}{'no-op':>9}{'ratio':>8}{'driver':>9}{'net':>9}{'net no-op':>11}")
    smallest_and_largest = list(dict.fromkeys((sizes[0], sizes[-1])))
    for source in (
        established(sizes, wanted, effort),
        quality.rows([Shape(4, *SHAPES[size]) for size in sizes], wanted, effort),
        binding.rows([Shape(4, *SHAPES[size]) for size in smallest_and_largest], wanted, effort),
    ):
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
