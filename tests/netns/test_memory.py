# SPDX-License-Identifier: Apache-2.0
"""The memory of the maps: as foretold, as `earshot` shows it, and refused where there is too little."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from control import fdinfo, fitting, libbpf, pinned
from control.memory import map_bytes
from tests.lab.netns import Lab
from tests.lab.services import BIN, start_relay
from tests.lab.topology import Site, two_armed
from tests.netns.command import config_of, earshot

pytestmark = [pytest.mark.root, pytest.mark.netns]


@pytest.fixture(scope="module")
def bare_site() -> Iterator[Site]:
    with Lab() as lab:
        yield two_armed(lab)


@pytest.mark.parametrize("sessions", [100, 65_536, 70_000])
def test_maps_take_what_was_foretold(bare_site: Site, sessions: int) -> None:
    config = replace(config_of(bare_site), max_sessions=sessions)
    cpus = libbpf.possible_cpus()
    with libbpf.BpfObject(pinned.object_path()) as program:
        for name, entries in fitting.map_sizes(config, fitting.wanted_layout(config)).items():
            program.set_max_entries(name, entries)
        shapes = program.map_shapes()
        program.load()
        taken = {shape.name: int(fdinfo.read(program.map_fd(shape.name))["memlock"]) for shape in shapes}
    for shape in shapes:
        # The descriptor of a map, and what a kernel keeps beside its entries.
        assert 0 <= taken[shape.name] - map_bytes(shape, cpus) <= 8192 + taken[shape.name] // 50, shape


SMALL = "MemTotal: 204800 kB\nMemAvailable: 102400 kB\n"


def small(tmp_path: Path, told: str = SMALL) -> tuple[str, ...]:
    """What a command is run by so that /proc/meminfo tells it this: of 100 MiB, if nothing else."""
    path = tmp_path / "meminfo"
    path.write_text(told)
    mounted = f'mount --bind "{path}" /proc/meminfo && exec "$@"'
    return ("unshare", "--mount", "sh", "-c", mounted, "sh")


def small_host(site: Site, tmp_path: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """earshotd on a host with little memory."""
    daemon = [
        str(BIN / "earshotd"),
        *(f"--interface={interface}" for interface in site.interfaces),
        "--vip=203.0.113.1:3478",
        "--relay-address=10.20.0.1",
        f"--grpc-socket={site.lab.dir}/earshotd.sock",
        f"--pin-path={site.lab.pins}",
        *flags,
    ]
    return subprocess.run(
        site.relay.command(*small(tmp_path), *daemon),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_what_does_not_fit_the_host_is_refused(bare_site: Site, tmp_path: Path) -> None:
    refused = small_host(bare_site, tmp_path, "--max-sessions=1000000")
    assert refused.returncode == 2, refused.stderr
    assert "event=bad_configuration field=max_sessions" in refused.stderr
    assert "GiB of memory" in refused.stderr
    assert "there are 100 MiB (MemAvailable)" in refused.stderr
    assert not any(bare_site.lab.pins.iterdir())
    assert set(bare_site.xdp_modes().values()) == {"none"}


@pytest.mark.parametrize(("sessions", "status"), [(1000, "ok"), (1_000_000, "failed")])
def test_check_says_it_beforehand(bare_site: Site, tmp_path: Path, sessions: int, status: str) -> None:
    config = tmp_path / "earshotd.toml"
    config.write_text(
        f"""
        interfaces = {list(bare_site.interfaces)}
        vips = ["203.0.113.1:3478"]
        relay_addresses = ["10.20.0.1"]
        pin_path = "{bare_site.lab.pins}"
        max_sessions = {sessions}
        """
    )
    told = SMALL if status == "failed" else "MemAvailable: 8388608 kB\n"
    argv = ("check", "--no-attach", "--config", str(config), "-o", "json")
    said = earshot(bare_site, *argv, wrapper=small(tmp_path, told))
    [finding] = [one for one in json.loads(said.out)["findings"] if one["name"] == "memory"]
    assert finding["status"] == status, finding
    assert ("max_sessions: needs" in finding["found"]) == (status == "failed")
    assert "(MemAvailable)" in finding["found"]


def test_stats_show_it_and_a_restart_is_not_refused(tmp_path: Path) -> None:
    with Lab() as lab:
        site = two_armed(lab)
        daemon = start_relay(site)
        memory = earshot(site, "stats", "-o", "json").json["memory"]
        assert memory["bytes"] == sum(row["bytes"] for row in memory["maps"])
        assert {"sessions_v1", "flows_v2"} < {row["map"] for row in memory["maps"]}
        entries = {row["map"]: row["entries"] for row in memory["maps"]}
        assert entries["sessions_v1"] == 65_536
        # Two relay addresses with 22,768 ports each.
        assert memory["bytes_per_flow"] == round(memory["flow_bytes"] / (2 * 22_768), 1)
        assert memory["bytes_per_session"] == round(memory["session_bytes"] / 65_536, 1) <= 200
        [line] = [line for line in earshot(site, "stats").out.splitlines() if line.startswith("Memory")]
        assert f"{memory['bytes_per_session']} for each ufrag" in line
        status = earshot(site, "datapath", "status", "-o", "json").json
        assert memory["bytes"] == status["memory_bytes"]
        daemon.terminate()
        daemon.wait(20)
        # Calls go on in these maps: a daemon for them starts, however little memory there is. Here it fails
        # for another reason, after that check.
        (tmp_path / "earshotd.sock.d").touch()
        said = small_host(site, tmp_path, *_same(site), f"--grpc-socket={tmp_path}/earshotd.sock")
        assert "field=grpc_socket" in said.stderr, said.stderr


def _same(site: Site) -> list[str]:
    """The flags with which start_relay differs from small_host."""
    return [
        "--name=relay",
        *(f"--vip=[{family.vip}]:3478" for version, family in site.addresses.items() if version == 6),
        *(f"--relay-address={family.relay}" for version, family in site.addresses.items() if version == 6),
    ]
