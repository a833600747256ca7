# SPDX-License-Identifier: Apache-2.0
"""The whole path, beside others.

    scripts/bench path --json FILE

Each candidate stands between two hosts (site.py), all of them at the same time, and is measured in turn.
A row of the result is one candidate, family, size and number of flows:

    pps             packets a second, the highest rate at which at most 0.1 % are lost
    flat_out        that is as many as the generator makes: all happens on its CPU, which is one;
                    else packets come from all CPUs, and the candidate has them all
    ns, net_ns      CPU time a packet, of everything; and without generator, one link and sink (hop_ns)
    ratio           ns over the blind forwarder's
    idle, half      round trips in microseconds, one packet at a time and at half of pps: p50 and p99,
                    and what they are more than without any relay
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.path import in_kernel, in_userspace
from bench.path.candidates import Candidate, Case, Ready
from bench.path.load import run
from bench.path.measure import Effort, Meter, Trips
from tests.lab.netns import Lab

NO_RELAY, BLIND = "no relay", "blind"
CANDIDATES: dict[str, Candidate] = {
    NO_RELAY: in_kernel.no_relay,
    BLIND: in_kernel.blind,
    "earshot": in_kernel.earshot,
    "generic": in_kernel.earshot_generic,
    "nftables": in_kernel.nftables,
    "c-relay": in_userspace.c_relay,
    "coturn": in_userspace.coturn,
}
ALWAYS = (NO_RELAY, BLIND)  # what others are compared with
BROKEN_FLOWS = 64
Row = dict[str, Any]


def notices(candidate: Candidate, family: int, size: int, cpus: Sequence[int]) -> bool:
    """Whether the sinks notice that a candidate leads to wrong transceivers."""
    with (
        Lab() as lab,
        candidate(lab, Case(family, BROKEN_FLOWS, wrong=True)) as ready,
        ready.sources(size) as sources,
    ):
        return run(ready, sources, cpus[:1], 0.05, 20_000).wrong > 0


def measure(names: Sequence[str], case: Case, sizes: Sequence[int], effort: Effort) -> Iterator[Row]:
    """All candidates of these names, side by side, in turn."""
    with ExitStack() as stack:
        standing: dict[str, Ready] = {}
        for name in names:
            lab = stack.enter_context(Lab())
            standing[name] = stack.enter_context(CANDIDATES[name](lab, case))
        for size in sizes:
            meters = {name: Meter(ready, size, effort) for name, ready in standing.items()}
            for meter in meters.values():
                meter.look()
            for _ in range(effort.rounds):
                for meter in meters.values():
                    meter.count()
            for name, meter in meters.items():
                yield {
                    "candidate": name,
                    "family": case.family,
                    "size": size,
                    "flows": standing[name].case.flows,
                    "flows_asked": case.flows,
                    **figures(meter, meters[NO_RELAY], meters[BLIND]),
                }


def figures(meter: Meter, bare: Meter, blind: Meter) -> Row:
    """What a row says. bare: of no relay at all."""
    flat_out = meter.rate is None
    half = meter.pps / 2
    hop_ns = bare.ns if flat_out else bare.ns_at(meter.pps, meter.cpus)
    return {
        "pps": round(meter.pps),
        "flat_out": flat_out,
        "cpus_feeding": len(meter.cpus),
        "loss": round(meter.loss, 6),
        "ns": round(meter.ns, 1),
        "hop_ns": round(hop_ns, 1),
        "net_ns": round(meter.ns - hop_ns, 1),
        "ratio": round(meter.ns / blind.ns, 2),
        "idle": _trips(meter.idle_trips(), bare.idle_trips()),
        "half": _trips(meter.loaded_trips(half, meter.cpus), bare.loaded_trips(half, meter.cpus)),
    }


def _trips(trips: Trips, bare: Trips) -> Row:
    return {
        "probes": trips.count,
        "p50": trips.p50,
        "p99": trips.p99,
        "added_p50": round(trips.p50 - bare.p50, 1),
        "added_p99": round(trips.p99 - bare.p99, 1),
    }


def key(row: Row) -> tuple[Any, ...]:
    """What a row is about; a later row about the same replaces it."""
    return row["flows_asked"], row["family"], row["size"], list(CANDIDATES).index(row["candidate"])


def show(row: Row) -> None:
    trips = "".join(
        f"{row[load][which]:>{width}.1f}"
        for load, width in (("idle", 10), ("half", 10))
        for which in ("p50", "p99")
    )
    print(
        f"{row['candidate']:10}{row['family']:>3}{row['size']:>6}{row['flows']:>8,}{row['pps']:>12,}"
        f"{row['ns']:>8.0f}{row['net_ns']:>8.0f}{row['ratio']:>7.2f}{trips}",
        flush=True,
    )


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/bench path", description="Measures whole paths, through Earshot and through others."
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there, too")
    parser.add_argument(
        "--append", action="store_true", help="keep the rows that FILE has, but those measured again"
    )
    parser.add_argument(
        "--candidates", default=",".join(CANDIDATES), help="besides the first two (default: %(default)s)"
    )
    parser.add_argument("--flows", type=_numbers, default=[1000, 50_000], help="(default: 1000,50000)")
    parser.add_argument(
        "--sizes", type=_numbers, default=[80, 1200], help="bytes of an IP packet (default: 80,1200)"
    )
    parser.add_argument("--families", type=_numbers, default=[4, 6], help="(default: 4,6)")
    parser.add_argument("--quick", action="store_true", help="one short run of each: to see that all works")
    parser.add_argument(
        "--cpus",
        type=_numbers,
        default=sorted(os.sched_getaffinity(0), reverse=True),
        help="that make packets; the first one alone for what forwards in the kernel (default: all)",
    )
    options = parser.parse_args(arguments)
    asked = options.candidates.split(",")
    if unknown := set(asked) - set(CANDIDATES):
        parser.error(f"no such candidate: {', '.join(sorted(unknown))}")
    names = [name for name in CANDIDATES if name in ALWAYS or name in asked]

    rows: dict[tuple[Any, ...], Row] = {}
    if options.append and options.json and options.json.exists():
        rows = {key(row): row for row in json.loads(options.json.read_text())["rows"]}
    cpus = tuple(options.cpus)
    effort = Effort(cpus, look=0.3, count=0.6, rounds=3, probes=300)
    if options.quick:
        effort = Effort(cpus, look=0.1, count=0.1, rounds=1, probes=50)
    for name in names:
        # With no relay there is nothing that could be broken.
        if name != NO_RELAY and not notices(CANDIDATES[name], options.families[0], options.sizes[0], cpus):
            raise SystemExit(f"{name}: broken on purpose, and nobody noticed")
    print(
        f"{'candidate':10}{'IP':>3}{'bytes':>6}{'flows':>8}{'packets/s':>12}{'ns':>8}{'net':>8}{'ratio':>7}"
        f"{'idle p50':>10}{'p99':>10}{'half p50':>10}{'p99 us':>10}"
    )
    for flows in options.flows:
        for family in options.families:
            for row in measure(names, Case(family, flows), options.sizes, effort):
                rows[key(row)] = row
                show(row)
    if options.json:
        result = {
            "kernel": platform.release(),
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "rows": [rows[at] for at in sorted(rows)],
        }
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
