# SPDX-License-Identifier: Apache-2.0
"""Times the control plane: registration of sessions, sweeps of the flow table, restarts; and weighs the maps.

earshotd runs on a CPU of its own, in a host of tests/lab, and everything that asks something of it on the
others. Each row is by itself: it starts a daemon of its own.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import forwardable, reads, relayhost, scrapes, sweeps
from bench.relayhost import Size
from bench.storm import calls, cpu_seconds, probe, probe_for, storm
from control.batches import clock
from control.datapath import Datapath
from control.memory import usage
from tests.lab.netns import Lab, stop
from tests.lab.services import relay_target
from tests.lab.topology import Site, two_armed

FEW_FLOWS = 20_000
WARM_UP = 20  # samples: neighbours have to be found first

Row = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """How large everything is, and on which CPU the daemon runs."""

    sessions: int
    streams: int
    samples: int
    flows: int
    restored: int
    cpu: int
    quiet_seconds: float


def register(plan: Plan, streams: int) -> Row:
    """A reconnect storm against a fresh daemon."""
    with Lab() as lab:
        site = two_armed(lab)
        daemon = relayhost.start_daemon(site, Size.of(FEW_FLOWS, 2 * plan.sessions), plan.cpu)
        target = relay_target(site)
        with storm(target, streams, plan.sessions) as pipe, calls(target) as asked:
            quiet = probe_for(asked, plan.quiet_seconds)
            used = cpu_seconds(daemon.pid)
            pipe.send("go")
            busy = probe(asked, pipe.poll)
            used = cpu_seconds(daemon.pid) - used
            done = pipe.recv()
    if done.refused:
        raise RuntimeError(f"{done.refused} sessions were refused")
    return {
        "sessions": plan.sessions,
        "streams": streams,
        "seconds": round(done.seconds, 3),
        "per_second": round(plan.sessions / done.seconds),
        "daemon_cpu_seconds": round(used, 3),
        "quiet": {name: one._asdict() for name, one in quiet.items()},
        "busy": {name: one._asdict() for name, one in busy.items()},
    }


def until_forwardable(plan: Plan, in_a_storm: bool) -> Row:
    """From a Batch to the first packet, with nothing else to do or while another registers its sessions."""
    with Lab() as lab:
        site = two_armed(lab)
        relayhost.start_daemon(site, Size.of(FEW_FLOWS, 2 * (plan.sessions + plan.samples)), plan.cpu)
        target = relay_target(site)
        with relayhost.maps(lab.pins) as datapath:
            forwardable.sample(site, target, datapath, "warmup", lambda found: len(found) >= WARM_UP)
            if not in_a_storm:
                samples = forwardable.sample(
                    site, target, datapath, "sampled", lambda found: len(found) >= plan.samples
                )
            else:
                with storm(target, 1, plan.sessions) as pipe:
                    pipe.send("go")
                    samples = forwardable.sample(
                        site, target, datapath, "sampled", lambda found: bool(found) and pipe.poll()
                    )
                    pipe.recv()
    return forwardable.figures(samples)


@contextmanager
def full(plan: Plan) -> Iterator[tuple[Site, Size, Datapath]]:
    """A relay host whose maps are full, and no daemon."""
    size = Size.of(plan.flows, plan.restored)
    with Lab() as lab:
        site = two_armed(lab)
        stop(relayhost.start_daemon(site, size, plan.cpu))
        with relayhost.maps(lab.pins) as datapath:
            relayhost.fill(datapath, plan.restored, clock())
            yield site, size, datapath


def sweep(plan: Plan) -> Row:
    """Sweeps of a full table by the daemon's own code, in this process, so that each step can be timed."""
    with full(plan) as (_, size, datapath):
        return {"flows": size.flows, **sweeps.measure(datapath, plan.restored)}


def restart(plan: Plan) -> Row:
    """Starts the daemon again over full maps, and asks something of it during its first scans."""
    with full(plan) as (site, size, datapath):
        start = time.perf_counter()
        daemon = relayhost.start_daemon(site, size, plan.cpu)
        ready = time.perf_counter() - start
        memory = relayhost.resident(daemon.pid)
        with calls(relay_target(site)) as asked:
            first = probe_for(asked, 5 * plan.quiet_seconds)
            used = cpu_seconds(daemon.pid)
            later = probe_for(asked, plan.quiet_seconds)
            used = (cpu_seconds(daemon.pid) - used) / plan.quiet_seconds
        live = sweeps.live(datapath)
        if live != size.flows:
            raise RuntimeError(f"of {size.flows} flows {live} are left")
        kernel = usage(datapath.descriptors, datapath.capacity())
    return {
        "flows": size.flows,
        "sessions": plan.restored,
        "seconds": round(ready, 2),
        **memory,
        "first_calls": {name: one._asdict() for name, one in first.items()},
        "later_calls": {name: one._asdict() for name, one in later.items()},
        "later_cpu_percent": round(100 * used, 1),
        "kernel_memory": kernel,
    }


def scrape(plan: Plan) -> Row:
    """Scrapes of a daemon with full maps, all flows measured, while callers ask something of it."""
    with full(plan) as (site, size, datapath):
        daemon = relayhost.start_daemon(site, size, plan.cpu)
        with calls(relay_target(site)) as asked:
            probe_for(asked, 2 * plan.quiet_seconds)
            quiet = probe_for(asked, 4 * plan.quiet_seconds)
            scrapes.fill_quality(datapath)
            measured = scrapes.measured(site)
            used = cpu_seconds(daemon.pid)
            with scrapes.scraped(site) as took:
                busy = probe_for(asked, 4 * plan.quiet_seconds)
            used = cpu_seconds(daemon.pid) - used
    return {
        "flows": size.flows,
        "measured": measured,
        **scrapes.figures(took),
        "daemon_cpu_seconds": round(used, 2),
        "quiet": {name: one._asdict() for name, one in quiet.items()},
        "busy": {name: one._asdict() for name, one in busy.items()},
    }


def read(plan: Plan) -> Row:
    """Reads of full maps by `earshot`, with no daemon."""
    with full(plan) as (site, size, _):
        return {"flows": size.flows, "sessions": plan.restored, **reads.measure(site)}


ROWS: dict[str, Callable[[Plan], Row]] = {
    "register/1-stream": lambda plan: register(plan, 1),
    "register/streams": lambda plan: register(plan, plan.streams),
    "forwardable/idle": lambda plan: until_forwardable(plan, False),
    "forwardable/storm": lambda plan: until_forwardable(plan, True),
    "sweep": sweep,
    "restart": restart,
    "scrape": scrape,
    "read": read,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench control", description="Times the control plane.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there, too")
    parser.add_argument("--rows", default="*", metavar="GLOB", help=f"of {', '.join(ROWS)}  (default: all)")
    for flag, default, text in (
        ("--sessions", 50_000, "to register"),
        ("--streams", 50, "to register them over, where it is not one"),
        ("--samples", 500, "sessions that are called as soon as they are there"),
        ("--flows", 1_032_192, "in the table that is swept, and that a restart finds"),
        ("--restored", 500_000, "sessions that a restart finds"),
        ("--rounds", 1, "times that each row is measured"),
        ("--cpu", max(os.sched_getaffinity(0)), "of the daemon"),
    ):
        parser.add_argument(
            flag, type=int, default=default, metavar="N", help=f"{text} (default: %(default)s)"
        )
    parser.add_argument(
        "--quiet-seconds",
        type=float,
        default=2.0,
        metavar="SECONDS",
        help="to ask while nothing else happens (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    if others := os.sched_getaffinity(0) - {options.cpu}:
        os.sched_setaffinity(0, others)
    plan = Plan(*(getattr(options, field) for field in Plan.__dataclass_fields__))
    rows = []
    for name in fnmatch.filter(ROWS, options.rows):
        for _ in range(options.rounds):
            rows.append({"name": name, **ROWS[name](plan)})
            print(json.dumps(rows[-1]), flush=True)
    if options.json:
        result = {
            "kernel": platform.release(),
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "rounds": options.rounds,
            "rows": rows,
        }
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
