# SPDX-License-Identifier: Apache-2.0
"""What maps will take, and what a host, made of files, can give."""

from __future__ import annotations

from pathlib import Path

import pytest

from control.errors import ConfigError
from control.libbpf import MapShape
from control.memory import HASH, Memory, Need, available, need

GIB = 1 << 30


def host(
    root: Path,
    *,
    free_kib: int = 8 << 20,
    group: str = "/system.slice/earshotd.service",
    limits: dict[str, tuple[str, int, int]] | None = None,
) -> Path:
    """A /proc, and control groups with a limit, bytes in use, and those that are easily given up."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "meminfo").write_text(f"MemTotal: 16777216 kB\nMemAvailable: {free_kib} kB\n")
    (root / "proc" / "self" / "mounts").write_text(f"proc /proc proc rw 0 0\nnone {root}/cg cgroup2 rw 0 0\n")
    (root / "proc" / "self" / "cgroup").write_text(f"12:cpu:/other\n0::{group}\n")
    (root / "cg" / group.lstrip("/")).mkdir(parents=True)
    for name, (most, used, inactive) in (limits or {}).items():
        path = root / "cg" / name.lstrip("/")
        (path / "memory.max").write_text(f"{most}\n")
        (path / "memory.current").write_text(f"{used}\n")
        (path / "memory.stat").write_text(f"anon 5\ninactive_file {inactive}\n")
    return root / "proc"


def test_a_host_without_limits(tmp_path: Path) -> None:
    assert available(host(tmp_path)) == Memory(8 * GIB, "MemAvailable")


def test_a_limit_of_the_own_group_or_of_one_above(tmp_path: Path) -> None:
    group = "/system.slice/earshotd.service"
    limits = {group: ("max", 0, 0), "/system.slice": (str(2 * GIB), 1 * GIB, GIB // 2)}
    memory = available(host(tmp_path, limits=limits))
    assert memory == Memory(3 * GIB // 2, f"memory.max of {tmp_path}/cg/system.slice")


def test_a_limit_above_what_the_host_has(tmp_path: Path) -> None:
    limits = {"/system.slice/earshotd.service": (str(64 * GIB), GIB, 0)}
    assert available(host(tmp_path, limits=limits)) == Memory(8 * GIB, "MemAvailable")


def test_a_limit_that_is_used_up(tmp_path: Path) -> None:
    limits = {"/system.slice/earshotd.service": (str(GIB), 2 * GIB, 0)}
    assert available(host(tmp_path, limits=limits)).bytes == 0


def test_this_host() -> None:
    assert available().bytes > 0


SESSIONS = MapShape("sessions_v1", HASH, 32, 96, 1 << 20, 0)
FLOWS = MapShape("flows_v1", 2, 4, 64, 1000, 1 << 10)


def test_the_setting_at_fault_is_named() -> None:
    wanted = need([SESSIONS, FLOWS], (), sessions=1 << 20, flows=1000, cpus=2)
    wanted.check(Memory(2 * GIB, "MemAvailable"))
    with pytest.raises(
        ConfigError, match=r"needs 1\.\d GiB .* there are 1\.0 GiB \(MemAvailable\)"
    ) as caught:
        wanted.check(Memory(1 * GIB, "MemAvailable"))
    assert caught.value.field == "max_sessions"
    with pytest.raises(ConfigError) as caught:
        Need({"max_sessions": 5, "relay_ports": 6}, 0).check(Memory(10, "MemAvailable"))
    assert caught.value.field == "relay_ports"


def test_maps_that_are_there_need_nothing() -> None:
    both = need([SESSIONS, FLOWS], (), sessions=1 << 20, flows=1000, cpus=2)
    one = need([SESSIONS, FLOWS], ("sessions_v1",), sessions=1 << 20, flows=1000, cpus=2)
    assert both.bytes - one.bytes >= 192 << 20
    assert one.by_field["relay_ports"] == both.by_field["relay_ports"]
