# SPDX-License-Identifier: Apache-2.0
"""Starts Earshot's programs in a site, and waits until they serve."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.lab.host import Host, LabError
from tests.lab.netns import Lab
from tests.lab.topology import HTTP_PORT, SIGNALLING_TRANSCEIVER, VIP_PORT, Site

BIN = Path(sys.executable).parent  # not resolved: the virtual environment's, not the system's
READY = "event=ready"
REGION = "lab"  # of a site's relay
START_TIMEOUT = 90.0  # also on an emulated machine


def relay_target(site: Site) -> str:
    """gRPC target of the relay. A path: it is the same in every host."""
    return f"unix:{site.lab.dir}/earshotd.sock"


def endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def start_relay(site: Site, *flags: str) -> subprocess.Popen[bytes]:
    """earshotd in the relay host, with the VIPs of both families; returns when it serves."""
    return start(site.lab, site.relay, *relay_command(site, *flags))


def popen_relay(site: Site, *flags: str) -> subprocess.Popen[bytes]:
    """The same, without waiting for it."""
    return site.lab.popen(site.relay, *relay_command(site, *flags))


def relay_command(site: Site, *flags: str) -> tuple[str, ...]:
    """earshotd with what it needs in a site."""
    addresses = site.addresses.values()
    return (
        str(BIN / "earshotd"),
        "--name=relay",
        f"--region={REGION}",
        *(f"--interface={interface}" for interface in site.interfaces),
        *(f"--vip={endpoint(family.vip, VIP_PORT)}" for family in addresses),
        *(f"--relay-address={family.relay}" for family in addresses),
        f"--grpc-socket={site.lab.dir}/earshotd.sock",
        f"--pin-path={site.lab.pins}",
        *flags,
    )


def start_transceiver(site: Site, families: Sequence[int], *flags: str) -> subprocess.Popen[bytes]:
    """earshot-transceiver in its host, with media of these families; returns when it serves."""
    return start(
        site.lab,
        site.transceiver,
        str(BIN / "earshot-transceiver"),
        "--name=transceiver",
        f"--relay={relay_target(site)}",
        f"--http={endpoint(SIGNALLING_TRANSCEIVER, HTTP_PORT)}",
        *(f"--media-address={site.addresses[family].transceiver}" for family in families),
        *flags,
    )


def start_agent(site: Site) -> str:
    """earshot-agent in the transceiver host; returns its target when it serves."""
    target = f"unix:{site.lab.dir}/agent.sock"
    start(site.lab, site.transceiver, str(BIN / "earshot-agent"), f"--listen={target}")
    return target


def whip_url(port: int = HTTP_PORT) -> str:
    return f"http://{endpoint(SIGNALLING_TRANSCEIVER, port)}/whip"


def start_calls(
    site: Site, calls: int, seconds: int, result: Path, *flags: str, port: int = HTTP_PORT
) -> subprocess.Popen[bytes]:
    """Real calls from the client host; what became of them is in `result` when it has ended."""
    return start_calls_at(site.lab, site.client, whip_url(port), calls, seconds, result, *flags)


def start_calls_at(
    lab: Lab, client: Host, whip: str, calls: int, seconds: int, result: Path, *flags: str
) -> subprocess.Popen[bytes]:
    """The same, from any host."""
    return lab.popen(
        client,
        *(sys.executable, "-P", "-m", "tests.lab.caller", "--whip", whip),
        *("--calls", str(calls), "--seconds", str(seconds), "--json", str(result), *flags),
        log="caller",
    )


def start(lab: Lab, host: Host, *argv: str, name: str = "") -> subprocess.Popen[bytes]:
    """Starts a program and waits for its `ready` line.

    `name`: of it and of its log, where another program starts it.

    Raises `LabError` with the end of its log if it does not come to that.
    """
    name = name or Path(argv[0]).name
    log = lab.log(name)
    before = log.stat().st_size if log.exists() else 0
    process = lab.popen(host, *argv, log=name)
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        said = log.read_bytes()[before:].decode(errors="replace")
        if READY in said:
            return process
        if process.poll() is not None:
            raise LabError(f"{name} ended with {process.returncode}:\n{said[-2000:]}")
        if time.monotonic() > deadline:
            raise LabError(f"{name} is not ready after {START_TIMEOUT:.0f} s:\n{said[-2000:]}")
        time.sleep(0.02)
