# SPDX-License-Identifier: Apache-2.0
"""`earshot` as a test runs it, and a datapath to run it on."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any, NamedTuple

from click.testing import CliRunner

from control.addresses import parse_endpoint
from control.cli.main import cli
from control.config import Config, PortRange
from control.loader import Loaded, open_datapath
from tests.lab.netns import Lab
from tests.lab.relay_client import Attachment, RelayClient
from tests.lab.services import BIN, endpoint, relay_target, start_relay
from tests.lab.topology import VIP_PORT, Site, two_armed

RELAY_PORTS = PortRange(10000, 19999)


class Said(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.status == 0, self.err
        return json.loads(self.out)

    @property
    def table(self) -> list[list[str]]:
        assert self.status == 0, self.err
        return [line.split() for line in self.out.splitlines()]


@contextmanager
def served(transceiver: str) -> Iterator[tuple[Site, RelayClient, Attachment]]:
    """A site with a daemon, and a transceiver that is attached to it."""
    with Lab() as lab:
        site = two_armed(lab)
        start_relay(site)
        with RelayClient(relay_target(site)) as relay, relay.attach(transceiver) as attachment:
            yield site, relay, attachment


def earshot(site: Site, *argv: str, stdin: str = "", wrapper: tuple[str, ...] = ()) -> Said:
    """Runs the command in the relay host."""
    done = subprocess.run(
        site.relay.command(*wrapper, str(BIN / "earshot"), *argv),
        env={**os.environ, "EARSHOT_PIN_PATH": str(site.lab.pins)},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Said(done.returncode, done.stdout, done.stderr)


def earshot_here(site: Site, *argv: str) -> Said:
    """The same without a process of its own, which takes most of the time: for tests of many commands."""
    with site.relay.inside():
        said = CliRunner().invoke(cli, [*argv], env={"EARSHOT_PIN_PATH": str(site.lab.pins)})
    assert said.exception is None or isinstance(said.exception, SystemExit), said.exception
    return Said(said.exit_code, said.stdout, said.stderr)


def config_of(site: Site) -> Config:
    addresses = site.addresses.values()
    return Config(
        interfaces=site.interfaces,
        vips=tuple(parse_endpoint(endpoint(family.vip, VIP_PORT)) for family in addresses),
        relay_addresses=tuple(ip_address(family.relay) for family in addresses),
        relay_ports=RELAY_PORTS,
        pin_path=site.lab.pins,
        max_sessions=100,
        max_backends=10,
    )


def load(site: Site) -> Loaded:
    with site.relay.inside():
        return open_datapath(config_of(site))


@contextmanager
def site_with_program() -> Iterator[Site]:
    """A site with the program attached and no daemon."""
    with Lab() as lab:
        site = two_armed(lab)
        load(site).close()
        yield site
