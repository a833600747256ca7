# SPDX-License-Identifier: Apache-2.0
"""Why more flows cost more: one large table, and packets of all flows, of few, and of all in order.

    .venv/bin/python -m bench.path.caches

Each line is a table made anew, so with its records elsewhere in memory. Nanoseconds of CPU time a packet,
everything included, beside the blind forwarder.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Sequence

from bench.path.candidates import Case, Ready
from bench.path.in_kernel import blind, earshot
from bench.path.load import run
from tests.lab.netns import Lab

SIZE = 80
SECONDS = 0.3


def cost(ready: Ready, cpu: int, flows: range, *, in_turn: bool = False) -> float:
    """Of packets of these flows, any of them at random or each in turn."""
    with ready.sources(SIZE) as sources:
        for source in sources:
            source.set(in_turn=in_turn, shares={cpu: flows})
        made = run(ready, sources, [cpu], SECONDS)
    if made.wrong:
        raise RuntimeError(f"{made.wrong} packets came out wrong")
    return made.ns


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench.path.caches", description="Why more flows cost more.")
    parser.add_argument("--flows", type=int, default=50_000, help="(default: %(default)s)")
    parser.add_argument("--few", type=int, default=1000, help="(default: %(default)s)")
    parser.add_argument("--tables", type=int, default=8, help="one after the other (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="the median counts (default: %(default)s)")
    parser.add_argument("--family", type=int, default=4, help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    cpu = max(os.sched_getaffinity(0))
    case, every = Case(options.family, options.flows), range(options.flows)
    print(f"{'blind':>8}{'all':>8}{f'{options.few:,}':>8}{'in turn':>9}")
    for _ in range(options.tables):
        with (
            Lab() as one,
            Lab() as other,
            blind(one, case) as baseline,
            earshot(other, case) as relay,
        ):
            found = [
                (
                    cost(baseline, cpu, every),
                    cost(relay, cpu, every),
                    cost(relay, cpu, range(options.few)),
                    cost(relay, cpu, every, in_turn=True),
                )
                for _ in range(options.rounds)
            ]
        medians = [statistics.median(column) for column in zip(*found, strict=True)]
        print("{:8.0f}{:8.0f}{:8.0f}{:9.0f}".format(*medians), flush=True)


if __name__ == "__main__":
    main()
