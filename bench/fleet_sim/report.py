# SPDX-License-Identifier: Apache-2.0
"""What was found of a fleet, as JSON and for people."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from bench.fleet_sim import capacity
from bench.fleet_sim.assumptions import Assumptions
from bench.fleet_sim.fleets import Fleet
from bench.fleet_sim.scenarios import AWAY_SECONDS, Outcome, Quiet, RedisLost, RelayLost

Report = dict[str, Any]
MEASURED = Path(__file__).with_name("measured.toml")
PLANNED = "transceiver: cores"  # there are as many transceivers as calls need: what breaks is elsewhere


def report(fleet: Fleet, a: Assumptions, outcome: Outcome) -> Report:
    """Everything of one fleet, ready for JSON; `resources` in the order in which growing calls spend them."""
    spent = capacity.spent_at(fleet, a)
    resources = [
        use._asdict() | {"share": use.share, "spent_at_calls": spent[use.what]}
        for use in capacity.uses(fleet, a)
    ]
    resources.sort(key=lambda row: row["spent_at_calls"])
    first = next(row["what"] for row in resources if row["what"] != PLANNED)
    return {
        "fleet": asdict(fleet),
        "rates": asdict(capacity.rates(fleet, a)),
        "resources": resources,
        "breaks_first": {"what": first, "at_calls": spent[first], "next_step": capacity.NEXT_STEP[first]},
        "relay_memory_bytes": capacity.relay_memory(fleet, a),
        "redis_memory_bytes": capacity.redis_memory(fleet, a),
        "history_seconds": capacity.history_seconds(fleet, a),
        "joining_seconds": capacity.joining_seconds(fleet, a),
        "simulated": {
            name: part._asdict() if isinstance(part, Quiet | RelayLost | RedisLost) else part
            for name, part in outcome._asdict().items()
        },
    }


def lines(found: Report) -> Iterator[str]:
    """The same for people."""
    fleet, first = found["fleet"], found["breaks_first"]
    yield f"{fleet['name']}: {fleet['what']}"
    yield (
        f"  {fleet['relays']:,} relays in {fleet['regions']} region(s), groups of {fleet['group']};"
        f" {fleet['transceivers']:,} transceivers, {fleet['calls']:,} calls"
    )
    yield f"  {'':36} {'used':>10} {'one lost':>10} {'of':>6} {'':9} {'spent at calls':>16}"
    for row in found["resources"]:
        mark = "  <-- not enough" if row["share"] > 1 else ""
        at = row["spent_at_calls"]
        yield (
            f"  {row['what']:36} {row['used']:>10.3f} {row['lost']:>10.3f} {row['limit']:>6g} {row['unit']:9}"
            f" {_calls(at):>16}{mark}"
        )
    yield f"  first: {first['what']}; next step: {first['next_step']}"
    memory = {**found["relay_memory_bytes"], "Redis": found["redis_memory_bytes"]}
    yield "  memory of a relay, MB: " + ", ".join(
        f"{name} {size / 1e6:,.1f}" for name, size in memory.items()
    )
    yield (
        f"  an empty relay knows all after {found['joining_seconds']:.1f} s;"
        f" Redis' stream goes back {found['history_seconds']:,.1f} s"
    )
    yield from _simulated(found["simulated"])


def _simulated(parts: Report) -> Iterator[str]:
    quiet, relay = parts["quiet"], parts["relay_lost"]
    yield (
        f"  quiet: {quiet['changes_per_second']:,.1f} changes/s known elsewhere after"
        f" {_ms(quiet['lag_p50'])} (p50), {_ms(quiet['lag_p99'])} (p99);"
        f" Redis {quiet['redis_cpu']:.1%} of a core, {_mbit(quiet['redis_bytes_per_second'])};"
        f" earshotd {quiet['daemon_cpu']:.1%};"
        f" replication {_mbit(quiet['replication_bytes_per_second'])} a relay"
    )
    if quiet["falls_behind"]:
        yield "  falls behind, further and further: nothing else was tried"
        return
    yield (
        f"  a relay dies: no packets for {_ms(relay['gap_p50'])} (p50), {_ms(relay['gap_p99'])} (p99);"
        f" of its calls {relay['carried']:,} go on, {relay['bound_again']:,} with their next check,"
        f" {relay['lost']:,} are lost;"
        f" all is known again {_after(relay['converges'])}"
    )
    for name, how in ("redis_lost", "comes back as it was"), ("redis_emptied", "comes back empty"):
        yield (
            f"  Redis is away for {AWAY_SECONDS:g} s and {how}: {parts[name]['waiting']:,} calls had to wait;"
            f" all is known {_after(parts[name]['converges'])}"
        )
    yield f"  calls seen {parts['calls_seen']:,}, lost {parts['calls_lost']:,}"


def _calls(count: int) -> str:
    return {0: "any", capacity.MOST_CALLS: "never"}.get(count, f"{count:,}")


def _ms(seconds: float | None) -> str:
    return "?" if seconds is None else f"{1000 * seconds:,.0f} ms"


def _mbit(bytes_per_second: float) -> str:
    return f"{bytes_per_second * 8e-6:,.3f} Mbit/s"


def _after(seconds: float | None) -> str:
    return "not in time" if seconds is None else f"after {seconds:.2f} s"


class Figure(NamedTuple):
    """What namespaces showed of the small fleet: between which bounds, and where that is written."""

    low: float
    high: float
    source: str


def measured(path: Path = MEASURED) -> dict[str, Figure]:
    """By name, which is a path into `simulated`: `relay_lost.gap_p50`."""
    return {name: Figure(**table) for name, table in tomllib.loads(path.read_text()).items()}


def predicted(found: Report, name: str) -> float:
    """The same figure as the model has it."""
    value: Any = found["simulated"]
    for key in name.split("."):
        value = value[key]
    return float(value)


def compared(found: Report) -> Iterator[str]:
    """What was measured, beside what the model says."""
    for name, figure in measured().items():
        value = predicted(found, name)
        yield f"  {name}: {value:.3f}; measured {figure.low:g} to {figure.high:g} ({figure.source})"
