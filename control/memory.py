# SPDX-License-Identifier: Apache-2.0
"""The kernel memory of the maps: what they take, what they will take, and what the host has.

Nearly all of it is taken when a map is made, so that no packet ever has to wait for memory, and whether it
is there can be told beforehand. What a map will take follows the kernel's own count (each map type's
map_mem_usage in kernel/bpf), which fdinfo shows as `memlock` once it is made.
"""

from __future__ import annotations

import mmap
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from control import fdinfo
from control.errors import ConfigError
from control.units import in_bytes

if TYPE_CHECKING:
    from control.libbpf import MapShape

# enum bpf_map_type
HASH, ARRAY, PERF_EVENT_ARRAY, PERCPU_ARRAY, LRU_HASH, LPM_TRIE, QUEUE = 1, 2, 4, 6, 9, 11, 22
_MMAPABLE = 1 << 10  # of map_flags
_HASH_ELEMENT, _HASH_BUCKET = 48, 16  # struct htab_elem and struct bucket, of 64-bit kernels

# What earshotd itself comes to hold: of a session its names, keys and places in the registry
# (docs/performance-control.md has the measurement), of a flow what the reaper and its lists keep.
_DAEMON, _DAEMON_PER_SESSION, _DAEMON_PER_FLOW = 160 << 20, 1024, 24


class Memory(NamedTuple):
    """What can be had, and what sets that bound."""

    bytes: int
    source: str


@dataclass(frozen=True)
class Need:
    """What a configuration takes of the host: maps that are still to be made, and earshotd over full ones.

    by_field: bytes by the setting that they follow from; others are those of no setting.
    """

    by_field: Mapping[str, int]
    others: int

    @property
    def bytes(self) -> int:
        return sum(self.by_field.values()) + self.others

    def check(self, memory: Memory) -> None:
        """Raises ConfigError, of the setting that takes most, if it is more than can be had."""
        if self.bytes <= memory.bytes:
            return
        field, most = max(self.by_field.items(), key=lambda item: item[1])
        raise ConfigError(
            field,
            f"needs {in_bytes(most)} of memory, which makes {in_bytes(self.bytes)} in all for maps and "
            f"earshotd; there are {in_bytes(memory.bytes)} ({memory.source}): ask for less, or add memory",
        )


def need(shapes: Iterable[MapShape], made: Collection[str], sessions: int, flows: int, cpus: int) -> Need:
    """What it takes to make the maps of these shapes, those `made` already left out, and to run over them."""
    by_field = {"max_sessions": sessions * _DAEMON_PER_SESSION, "relay_ports": flows * _DAEMON_PER_FLOW}
    others = _DAEMON
    for shape in shapes:
        if shape.name in made:
            continue
        size = map_bytes(shape, cpus)
        field = _field_of(shape.name)
        if field:
            by_field[field] = by_field.get(field, 0) + size
        else:
            others += size
    return Need(by_field, others)


def _field_of(name: str) -> str:
    """The setting that a map's size follows from; empty: none."""
    if "flow" in name or name.startswith("quality_"):
        return "relay_ports"
    return {"sessions": "max_sessions", "backends": "max_backends"}.get(name.rpartition("_v")[0], "")


def map_bytes(shape: MapShape, cpus: int) -> int:
    """What a map takes from its making on, a few hundred bytes aside; `cpus` as possible_cpus() says."""
    entries, value = shape.max_entries, _rounded(shape.value_size, 8)
    if shape.type == ARRAY:
        return _rounded(entries * value, mmap.PAGESIZE) if shape.flags & _MMAPABLE else entries * value
    if shape.type == PERF_EVENT_ARRAY:
        return entries * 8  # a pointer each
    if shape.type == PERCPU_ARRAY:
        return entries * (8 + value * cpus)
    if shape.type in (HASH, LRU_HASH):
        buckets = 1 << max(0, entries - 1).bit_length()
        return (entries + cpus) * (
            _HASH_ELEMENT + _rounded(shape.key_size, 8) + value
        ) + buckets * _HASH_BUCKET
    if shape.type == QUEUE:
        return (entries + 1) * shape.value_size
    return 0  # made entry by entry


def usage(fds: Mapping[str, int], flows: int) -> dict[str, Any]:
    """What maps take, for JSON: each of them, and together by flow of capacity and by session that fits."""
    rows: list[dict[str, Any]] = []
    for name, fd in sorted(fds.items()):
        told = fdinfo.read(fd)
        rows.append({"map": name, "entries": int(told["max_entries"]), "bytes": int(told["memlock"])})
    of_flows = sum(row["bytes"] for row in rows if _field_of(row["map"]) == "relay_ports")
    of_sessions = sum(row["bytes"] for row in rows if _field_of(row["map"]) == "max_sessions")
    sessions = next(row["entries"] for row in rows if _field_of(row["map"]) == "max_sessions")
    return {
        "bytes": sum(row["bytes"] for row in rows),
        "flow_bytes": of_flows,
        "bytes_per_flow": round(of_flows / flows, 1) if flows else None,
        "session_bytes": of_sessions,
        "bytes_per_session": round(of_sessions / sessions, 1),
        "maps": rows,
    }


def available(proc: Path = Path("/proc")) -> Memory:
    """What this process can have before something has to give way: of the host, or of its control group.

    Maps count to the control group of who makes them. Of groups, only those of cgroup v2 are looked at.
    """
    fields = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines() if ":" in line)
    found = [Memory(int(fields["MemAvailable"].split()[0]) << 10, "MemAvailable")]
    found += _left_of_groups(proc / "self")
    return min(found)


def _left_of_groups(process: Path) -> Iterable[Memory]:
    """What the groups that a process is in leave it, those with a limit."""
    mounts = [line.split() for line in (process / "mounts").read_text().splitlines()]
    roots = [Path(mount[1]) for mount in mounts if mount[2] == "cgroup2"]
    groups = [
        line.split(":", 2)[2] for line in (process / "cgroup").read_text().splitlines() if line[:3] == "0::"
    ]
    if not roots or not groups:
        return
    group = roots[0] / groups[0].lstrip("/")
    while group != roots[0].parent and roots[0] in (group, *group.parents):
        limit = group / "memory.max"
        if limit.exists() and (most := limit.read_text().strip()) != "max":
            told = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            # Pages of files that nobody has looked at lately are given up first.
            used = int((group / "memory.current").read_text()) - int(told.get("inactive_file", 0))
            yield Memory(max(0, int(most) - used), f"memory.max of {group}")
        group = group.parent


def _rounded(size: int, to: int) -> int:
    return -(-size // to) * to
