# SPDX-License-Identifier: Apache-2.0
"""Times the directory: three relays and a Redis on this machine, many sessions, changes all the time.

What counts is how long it takes until a session stands in the map of another relay, where the next packet
would find it: since it stands in the map of the one that was told, and since the transceiver has sent it. And
what it costs: CPU, memory, and how long a relay takes that comes later and has nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from earshot.relay.v1 import relay_pb2 as pb

from bench.directory_load import Load, load
from bench.relayhost import resident
from bench.storm import cpu_seconds
from control import abi
from control.cli.options import pinned_maps
from control.datapath import Datapath
from tests.lab.fleet import TRANSCEIVERS, Fleet
from tests.lab.netns import Lab
from tests.lab.relay_client import RelayClient

PROBE_SECONDS = 0.02  # between two registrations that are timed
POLL_SECONDS = 0.0005
LOST_SECONDS = 10.0
CONVERGE_SECONDS = 300.0

Row = dict[str, Any]


def _key(ufrag: str) -> bytes:
    record = np.zeros(1, abi.UFRAG_KEY)
    record["ufrag"] = ufrag.encode()
    return record.tobytes()


def percentiles(seconds: Sequence[float]) -> Row:
    """Milliseconds."""
    return {f"p{p}_ms": round(1000 * float(np.percentile(seconds, p)), 2) for p in (50, 90, 99, 100)}


def probes(fleet: Fleet, phase: str, maps: dict[int, Datapath], seconds: float) -> Row:
    """Registers one session after the other at relay 1, and looks for each in the maps of all relays."""
    samples = 0
    elsewhere: list[float] = []
    later: list[float] = []
    with RelayClient(fleet.target(1)) as client, client.attach("probe", None) as stream:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            name = f"{phase}{samples:06}"
            key = _key(name)
            session = pb.Session(
                session_id=name,
                credentials=[pb.Credential(ufrag=name, pwd="p" * 24)],
                endpoints=[pb.Endpoint(address=TRANSCEIVERS, port=9999)],
            )
            started = time.perf_counter()
            stream.say(pb.Operation(add=session))
            found = _look_for(key, maps, started)
            if stream.results()[0].code:
                raise RuntimeError(f"{name} was refused")
            samples += 1
            here = found.pop(1)
            elsewhere += found.values()
            later += [max(0.0, one - here) for one in found.values()]
            time.sleep(PROBE_SECONDS)
    return {
        "samples": samples,
        "bindable_elsewhere_since_sent": percentiles(elsewhere),
        "bindable_elsewhere_since_here": percentiles(later),
    }


def _look_for(key: bytes, maps: dict[int, Datapath], started: float) -> dict[int, float]:
    """When each relay has it in its map, in seconds since `started`."""
    found: dict[int, float] = {}
    while len(found) < len(maps):
        for number, datapath in maps.items():
            if number not in found and datapath.sessions.get(key) is not None:
                found[number] = time.perf_counter() - started
        if time.perf_counter() - started > LOST_SECONDS:
            raise RuntimeError(f"a session came to {sorted(found)} alone")
        time.sleep(POLL_SECONDS)
    return found


def until(condition: Callable[[], bool], what: str) -> float:
    """Seconds until it is so."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > CONVERGE_SECONDS:
            raise RuntimeError(f"not within {CONVERGE_SECONDS:.0f} s: {what}")
        time.sleep(0.1)
    return time.monotonic() - started


def count(datapath: Datapath) -> int:
    """Ufrags in the map."""
    return len(datapath.read_sessions()[0])


def run(arguments: argparse.Namespace) -> Row:
    """The whole measurement."""
    flags = (
        f"--max-sessions={2 * arguments.sessions}",
        f"--max-sessions-per-transceiver={arguments.sessions}",
        "--grace-seconds=3600",
    )
    relays = (1, 2, 3)
    with Lab() as lab, ExitStack() as stack:
        fleet = stack.enter_context(Fleet(lab, len(relays)))
        fleet.start_all(*flags)
        maps = {number: stack.enter_context(pinned_maps(fleet.pins(number))) for number in relays}
        share = arguments.sessions // len(relays)
        started = time.monotonic()
        loads = [
            stack.enter_context(load(fleet.target(number), number, arguments.transceivers // 3, share))
            for number in relays
        ]
        for one in loads:
            one.pipe.recv()
        registered = time.monotonic() - started
        total = share * len(relays)
        until(lambda: all(count(held) == total for held in maps.values()), "all have all")
        converged = time.monotonic() - started
        row = {
            "relays": len(relays),
            "sessions": total,
            "transceivers": arguments.transceivers,
            "registered_seconds": round(registered, 1),
            "all_have_all_seconds": round(converged, 1),
            "quiet": probes(fleet, "quiet", maps, arguments.seconds / 3),
        }
        row["busy"] = busy(fleet, loads, maps, arguments)
        row["memory"] = {f"relay_{number}": resident(fleet.daemons[number].pid) for number in relays}
        row["redis_memory_mb"] = round(int(_info(fleet, "used_memory")) / 1e6, 1)
        row["join"] = join(fleet, total, flags)
    return row


def busy(fleet: Fleet, loads: list[Load], maps: dict[int, Datapath], arguments: argparse.Namespace) -> Row:
    """While sessions change everywhere."""
    pids = {f"relay_{number}": daemon.pid for number, daemon in fleet.daemons.items()}
    pids |= {f"load_{number}": one.pid for number, one in enumerate(loads, 1)}
    pids |= {"redis": fleet.redis.pid, "probes": os.getpid()}
    pipes = [one.pipe for one in loads]
    for pipe in pipes:
        pipe.send(arguments.changes / len(pipes))
    time.sleep(2)  # all have begun
    before, started = {name: cpu_seconds(pid) for name, pid in pids.items()}, time.monotonic()
    timed = probes(fleet, "busy", maps, arguments.seconds)
    seconds = time.monotonic() - started
    cpu = {name: round(100 * (cpu_seconds(pid) - before[name]) / seconds, 1) for name, pid in pids.items()}
    for pipe in pipes:
        pipe.send("end")
    done = [pipe.recv() for pipe in pipes]
    if any(refused for _, refused in done):
        raise RuntimeError(f"sessions were refused: {done}")
    changes = sum(changes for changes, _ in done)
    lengths = {number: count(one) for number, one in maps.items()}
    return {
        "changes_per_second": round(changes / (seconds + 2)),
        **timed,
        "cpu_percent": cpu,
        "ufrags": lengths,
    }


def join(fleet: Fleet, total: int, flags: Sequence[str]) -> Row:
    """A relay that has nothing."""
    fleet.kill(3)
    shutil.rmtree(fleet.pins(3))
    started = time.monotonic()
    fleet.start(3, *flags)
    ready = time.monotonic() - started
    most = total * 2 // 3  # those of its own transceivers come back with these
    with pinned_maps(fleet.pins(3)) as datapath:
        until(lambda: count(datapath) >= most, "it has those of the others")
    return {"ready_seconds": round(ready, 1), "has_all_seconds": round(time.monotonic() - started, 1)}


def _info(fleet: Fleet, field: str) -> str:
    lines = fleet.redis.cli("INFO", "memory").splitlines()
    return dict(line.strip().split(":", 1) for line in lines if ":" in line)[field]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=200_000)
    parser.add_argument("--transceivers", type=int, default=30)
    parser.add_argument("--changes", type=int, default=2000, help="adds and removals a second, in all")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    result = {
        "host": {"kernel": platform.release(), "cpus": os.cpu_count(), "python": platform.python_version()},
        "directory": run(arguments),
    }
    arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["directory"], indent=2))


if __name__ == "__main__":
    main()
