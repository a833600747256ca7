# SPDX-License-Identifier: Apache-2.0
"""What the model takes for given: one figure each, with unit and source, from a TOML file.

Raises AssumptionError for a figure that is missing, unknown, without a source, or out of its range.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

DEFAULT = Path(__file__).with_name("assumptions.toml")
KINDS = ("measured", "setting", "assumed")


class AssumptionError(ValueError):
    """The file does not say what the model has to know."""


class Source(NamedTuple):
    """Where a figure is from: kind is one of KINDS."""

    unit: str
    kind: str
    source: str


@dataclass(frozen=True)
class Assumptions:
    """All figures, in the units of assumptions.toml, which says what each is."""

    call_seconds: float
    packets_per_second: float
    packet_bytes: float
    bindings_per_call: float
    silent_client_share: float
    stun_seconds: float
    sessions_per_core: float
    transceiver_cores: float

    packet_ns_1k: float
    packet_ns_100k: float
    packet_ns_1m: float
    bind_ns: float
    bind_routable_ns: float
    relay_cores: float
    relay_nic_gbit: float
    relay_memory_gib: float
    flow_bytes: float
    session_bytes: float
    most_transceivers: float
    owner_bytes: float
    fixed_bytes: float
    ports_per_address: float
    relay_addresses: float
    room: float
    register_us: float
    bulk_us: float
    again_us: float
    slice_entries: float

    scan_seconds: float
    record_bytes: float
    message_bytes: float
    foreign_us: float
    lease_seconds: float
    renew_seconds: float
    margin_seconds: float
    watch_seconds: float
    move_seconds: float
    route_seconds: float

    latency_seconds: float
    flush_seconds: float
    pause_seconds: float
    read_messages: float
    message_us: float
    entry_bytes: float
    command_us: float
    append_us: float
    keep_us: float
    read_us: float
    stream_entry_bytes: float
    stream_messages: float
    kept_session_bytes: float
    beat_seconds: float
    held_bytes: float
    held_us: float
    transceiver_seconds: float
    reattach_seconds: float
    moved_changes: float
    redis_nic_gbit: float
    redis_memory_gib: float
    fresh_seconds: float


NAMES = tuple(field.name for field in fields(Assumptions))


def load(
    path: Path = DEFAULT, changes: Mapping[str, float] | None = None
) -> tuple[Assumptions, dict[str, Source]]:
    """The figures of a file, some of them changed for a trial, and where each is from."""
    try:
        tables = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise AssumptionError(f"{path}: {error}") from error
    changes = changes or {}
    if unknown := sorted((set(tables) | set(changes)) - set(NAMES)):
        raise AssumptionError(f"no such figure: {', '.join(unknown)}")
    values: dict[str, float] = {}
    sources: dict[str, Source] = {}
    for name in NAMES:
        table = tables.get(name)
        if not isinstance(table, dict):
            raise AssumptionError(f"{name} is missing")
        values[name] = _number(name, changes.get(name, table.get("value")))
        source = Source(*(str(table.get(key, "")) for key in ("unit", "kind", "source")))
        if not all(source) or source.kind not in KINDS:
            raise AssumptionError(
                f"{name} does not say its unit, its kind ({', '.join(KINDS)}) and its source"
            )
        sources[name] = (
            Source("", "changed", "--set")._replace(unit=source.unit) if name in changes else source
        )
    return Assumptions(**values), sources


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise AssumptionError(f"{name} is no number of 0 or more: {value!r}")
    return float(value)
