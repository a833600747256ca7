# SPDX-License-Identifier: Apache-2.0
"""Whether two CPUs do twice as much, and what would keep them from it.

    scripts/bench scaling --json FILE

First by test runs, one pinned thread for each CPU, then over links with a queue for each CPU. A row is one
program, and which flows the CPUs' packets are of:

    disjoint    each CPU has flows of its own, as a NIC spreads them that hashes both directions alike
    all         each CPU has packets of any flow
    one         all packets are of one flow

    ns_one, ns_two      CPU time a packet with one CPU, and with two at the same time
    pps_one, pps_two    packets a second; of test runs, by CPU time
    scaling             2 * ns_one / ns_two: CPU time, so that what else the machine does counts less

Last, which maps established flows' packets write to (written.py). With --stores instead: every line of the
program's source that became a store (stores.py).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.driver import BUILD
from bench.measure import Noops
from bench.path import in_kernel, plan
from bench.path.candidates import Case
from bench.path.load import DEADLINE, run
from bench.path.stores import stores
from bench.path.traffic import Packets
from bench.path.written import written
from bench.tables import Shape, Table
from control import libbpf
from tests.lab.netns import Lab

SIZE = 200
MACS = (bytes(6), bytes(6))
CPUS = 2


@dataclass(frozen=True)
class Row:
    how: str  # "test runs" or "links"
    program: str
    spread: str
    flows: int
    ns_one: float
    ns_two: float
    pps_one: int
    pps_two: int
    scaling: float


@dataclass(frozen=True)
class Sample:
    """CPU time a packet, and packets a second of all CPUs."""

    ns: float
    pps: float


def shares(spread: str, flows: int, cpus: Sequence[int]) -> dict[int, range]:
    """The flows that each CPU sends packets of."""
    if spread == "one":
        return dict.fromkeys(cpus, range(1))
    if spread == "all":
        return dict.fromkeys(cpus, range(flows))
    share = flows // len(cpus)
    return {cpu: range(number * share, (number + 1) * share) for number, cpu in enumerate(cpus)}


def compare(
    how: str,
    program: str,
    spread: str,
    flows: int,
    cpus: Sequence[int],
    sample: Callable[[Sequence[int]], Sample],
    rounds: int,
) -> Row:
    """One CPU and two in turn; medians. The one is each of the two in turn."""
    ones, twos = [], []
    for number in range(rounds):
        ones.append(sample([cpus[number % len(cpus)]]))
        twos.append(sample(cpus))
    ns_one, ns_two = (statistics.median(one.ns for one in found) for found in (ones, twos))
    pps_one, pps_two = (statistics.median(one.pps for one in found) for found in (ones, twos))
    return Row(
        *(how, program, spread, flows, round(ns_one, 1), round(ns_two, 1)),
        *(round(pps_one), round(pps_two), round(len(cpus) * ns_one / ns_two, 2)),
    )


def by_test_runs(flows: int, cpus: Sequence[int], rounds: int, repeat: int) -> Iterator[Row]:
    """Without links: what the programs cost alone, driver included. Packets go up."""
    forms = plan.port_each(4)
    with (
        closing(Table(Shape(4, 1, flows))) as table,
        closing(Packets(forms.up, MACS, SIZE, flows)) as packets,
        closing(Noops()) as noops,
        _counters(table.program_fd) as (own, shared),
    ):
        table.fill()
        programs = {
            "no-op": noops.noop,
            "earshot": table.program_fd,
            "earshot, a counter for each CPU": own,
            "earshot, a counter for all": shared,
        }
        for program, fd in programs.items():
            libbpf.update(packets.under_test, bytes(4), struct.pack("=I", fd))
            for spread in ("disjoint", "all", "one"):
                packets.set(shares=shares(spread, flows, cpus))

                def sample(used: Sequence[int]) -> Sample:
                    return _test_runs(packets, used, repeat)

                yield compare("test runs", program, spread, flows, cpus, sample, rounds)


def over_links(flows: int, cpus: Sequence[int], rounds: int, seconds: float) -> Iterator[Row]:
    """Whole paths (bench/path), in both directions: a queue for each CPU at every link."""
    for program, candidate in (("blind", in_kernel.blind), ("earshot", in_kernel.earshot)):
        with (
            Lab() as lab,
            candidate(lab, Case(4, flows)) as ready,
            ready.sources(SIZE) as sources,
        ):
            for spread in ("disjoint", "all", "one"):
                for source in sources:
                    source.set(shares=shares(spread, flows, cpus))

                def sample(used: Sequence[int]) -> Sample:
                    made = run(ready, sources, used, seconds)
                    if made.wrong or made.loss > 0.001:
                        raise RuntimeError(f"{made.wrong} packets came out wrong, {made.loss:.2%} were lost")
                    return Sample(made.ns, made.rate)

                yield compare("links", program, spread, flows, cpus, sample, rounds)


def _test_runs(packets: Packets, cpus: Sequence[int], repeat: int) -> Sample:
    start = threading.Barrier(len(cpus))

    def one(cpu: int) -> int:
        os.sched_setaffinity(0, {cpu})  # this thread's
        start.wait(DEADLINE)
        used = time.thread_time_ns()
        ran = libbpf.run_program(packets.drive, packets.frame, repeat=repeat)
        if ran.action != "TX":
            raise RuntimeError(f"the program under test said {ran.action}")
        return time.thread_time_ns() - used

    with ThreadPoolExecutor(len(cpus)) as pool:
        done = [future.result(DEADLINE) for future in [pool.submit(one, cpu) for cpu in cpus]]
    # Packets a second by CPU time, too: each run begins with a wait for the kernel's XDP dispatcher.
    return Sample(sum(done) / (repeat * len(done)), sum(1e9 * repeat / used for used in done))


@contextmanager
def _counters(program_fd: int) -> Iterator[tuple[int, int]]:
    """The relay behind a counter for each CPU, and behind one for all."""
    with libbpf.BpfObject(BUILD / "counted.bpf.o") as program:
        program.load()
        libbpf.update(program.map_fd("counted"), bytes(4), struct.pack("=I", program_fd))
        yield program.program_fd("own_counter"), program.program_fd("shared_counter")


def show_stores() -> None:
    with closing(Table(Shape(4, 1, 64))) as table:
        for store in stores(table.program_fd):
            print(f"{store.file:14}{store.instructions:>3}  {store.line}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/bench scaling", description="Measures what a second CPU adds."
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there, too")
    parser.add_argument("--flows", type=int, default=1000, help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="the median counts (default: %(default)s)")
    parser.add_argument(
        "--repeat", type=int, default=1_000_000, help="packets of a test run (default: %(default)s)"
    )
    parser.add_argument(
        "--seconds", type=float, default=0.3, help="of a run over links (default: %(default)s)"
    )
    parser.add_argument("--stores", action="store_true", help="only list what the program stores to")
    options = parser.parse_args(arguments)
    if options.stores:
        show_stores()
        return
    cpus = sorted(os.sched_getaffinity(0))[:CPUS]
    if len(cpus) < CPUS:
        raise SystemExit("this needs two CPUs")
    rows = []
    print(
        f"{'how':10}{'program':34}{'flows are':10}{'ns one':>9}{'ns two':>9}{'pps one':>12}{'pps two':>12}"
        f"{'scaling':>9}"
    )
    for source in (
        by_test_runs(options.flows, cpus, options.rounds, options.repeat),
        over_links(options.flows, cpus, options.rounds, options.seconds),
    ):
        for row in source:
            rows.append(row)
            print(
                f"{row.how:10}{row.program:34}{row.spread:10}{row.ns_one:>9.1f}{row.ns_two:>9.1f}"
                f"{row.pps_one:>12,}{row.pps_two:>12,}{row.scaling:>9.2f}",
                flush=True,
            )
    sent = range(options.flows // 2)
    places = written(options.flows, sent, cpus[0])
    print(f"written to by packets of flows 0 to {len(sent) - 1}, both directions, on CPU {cpus[0]}:")
    for place in places:
        print(f"  {place}")
    if options.json:
        result = {
            "kernel": platform.release(),
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "rounds": options.rounds,
            "rows": [asdict(row) for row in rows],
            "written": [asdict(place) for place in places],
        }
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
