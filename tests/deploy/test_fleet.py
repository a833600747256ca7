# SPDX-License-Identifier: Apache-2.0
"""A fleet of two relays in machines that have booted: as vagrant/fleet.json has it, by scripts/provision.

Needs what test_machine.py needs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.machine import Machine, booted
from tests.lab.calls import wait_for
from tests.lab.host import Host
from tests.lab.netns import Lab
from tests.lab.services import start_calls_at

pytestmark = [pytest.mark.root, pytest.mark.netns, pytest.mark.nightly, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
SITE = ROOT / "vagrant" / "fleet.json"
CHECKOUT = "vagrant"  # where the machines have it, as with Vagrant
HANDOVER = "var/lib/earshot-handover"
WHIP = "http://192.0.2.30:8080/whip"


class Fleet:
    """The machines, by name, all but the client, which is a host of the lab."""

    def __init__(self, lab: Lab, client: Host, machines: dict[str, Machine]) -> None:
        self.lab = lab
        self.client = client
        self.machines = machines

    def call(self, result: Path) -> dict[str, Any]:
        """What became of one."""
        start_calls_at(self.lab, self.client, WHIP, 1, 2, result).wait(90)
        (outcome,) = json.loads(result.read_text())["calls"]
        return dict(outcome)

    def cut(self, address: str) -> None:
        """Nothing of the client's reaches it from now on."""
        chain = f"chain output {{ type filter hook output priority 0; ip daddr {address} drop; }}"
        self.client.nft(f"table inet cut {{ {chain}; }}")


def sessions(machine: Machine) -> list[dict[str, Any]]:
    return list(json.loads(machine.run("earshot", "session", "list", "-o", "json")))


def attached(machine: Machine) -> list[str]:
    rows = json.loads(machine.run("earshot", "transceiver", "list", "-o", "json"))
    return [row["transceiver"] for row in rows if row["attached"]]


def networks(lab: Lab, site: dict[str, Any]) -> dict[str, Host]:
    """All hosts, on networks that are bridges."""
    bridges = {name: lab.host(f"net-{name}") for name in site["networks"]}
    for bridge in bridges.values():
        bridge.ip("link add name br0 type bridge", "link set dev br0 up")
    hosts = {}
    for machine in site["machines"]:
        name = machine["name"]
        host = hosts[name] = lab.host(name, is_relay=name.startswith("relay"))
        for number, (network, address) in enumerate(machine["links"].items(), 1):
            lab.link(host, bridges[network], [f"{address}/24"], name_a=f"eth{number}", name_b=name)
            bridges[network].ip(f"link set dev {name} master br0")
    return hosts


@pytest.fixture
def fleet(package: Path, tmp_path: Path) -> Iterator[Fleet]:
    """Provisioned, one machine after the other."""
    site = json.loads(SITE.read_text())
    with Lab() as lab, ExitStack() as stack:
        hosts = networks(lab, site)
        client = hosts.pop("client")
        machines = {name: stack.enter_context(booted(host, tmp_path / name)) for name, host in hosts.items()}
        for described in site["machines"][:-1]:
            name = described["name"]
            machine = machines[name]
            machine.run("hostname", name)
            checkout = machine.root / CHECKOUT
            (checkout / "scripts").mkdir(parents=True)
            shutil.copy(ROOT / "scripts" / "provision", checkout / "scripts")
            shutil.copy(package, machine.root / "root" / "earshot.deb")
            first = machines["relay"].root / HANDOVER
            if name != "relay":  # what vagrant/collect fetches
                shutil.copytree(first, checkout / "build" / "site" / "relay")
            for line in described["provision"].values():
                command = (f"/{CHECKOUT}/scripts/provision", *line, "--package", "/root/earshot.deb")
                machine.run(*command, timeout=120)
        yield Fleet(lab, client, machines)


def test_two_relays_carry_the_calls_of_one_transceiver(fleet: Fleet, tmp_path: Path) -> None:
    first, second = fleet.machines["relay"], fleet.machines["relay-2"]
    log = fleet.machines["transceiver"].log("earshot-transceiver@of-relay")
    wait_for(lambda: all(attached(relay) == ["of-relay"] for relay in (first, second)), log, timeout=60)
    # By the nearest, the one of the transceiver's own region; and by the other where that cannot be reached.
    for number in range(2):
        outcome = fleet.call(tmp_path / f"result-{number}")
        assert outcome["error"] is None
        assert outcome["audio_verified"]
        assert outcome["data_channel_verified"]
        fleet.cut("198.51.100.20")
    counts = [
        json.loads(relay.run("earshot", "stats", "-o", "json"))["reasons"]["forward_to_client"]["packets"]
        for relay in (first, second)
    ]
    assert min(counts) > 80, counts
    assert [sessions(relay) for relay in (first, second)] == [[], []]
    # They share a key, and ufrags are made with it; each relay has a certificate of its own, of one CA.
    keys = {(machine.root / "etc/earshot/fleet-1.key").read_text() for machine in (first, second)}
    assert len(keys) == 1
    assert "fleet_keys" in (second.root / "etc/earshot/earshotd.toml").read_text()
    assert not (second.root / "etc/earshot/pki").exists(), "the CA's key stays where it was made"
