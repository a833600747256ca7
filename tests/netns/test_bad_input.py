# SPDX-License-Identifier: Apache-2.0
"""Hosts that are not ready for a relay: it is said what to do, and the host's own network is as it was."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from control.check.finding import Finding, Status
from tests.lab.calls import RTP, call, nothing_waits, payload, wait_for
from tests.lab.netns import Lab, stop
from tests.lab.relay_client import RelayClient
from tests.lab.services import popen_relay, relay_command, relay_target, start, start_relay
from tests.lab.topology import Site, two_armed
from tests.netns.command import earshot
from tests.netns.test_hosts import calls_go, checked, refused

pytestmark = [pytest.mark.root, pytest.mark.netns]

OLD_KERNEL = ("setarch", "--uname-2.6")  # the personality by which a process is told of a 2.6
# In a mount namespace of its own, so that nobody else misses what it does without.
WITHOUT_BTF = ("unshare", "-m", "sh", "-ec", 'mount -t tmpfs none /sys/kernel/btf; exec "$@"', "sh")


@pytest.fixture
def site() -> Iterator[Site]:
    with Lab() as lab:
        made = two_armed(lab)
        yield made
        own_network_works(made)


def own_network_works(site: Site) -> None:
    """Who is on the host reaches its neighbours, and they the host, by TCP and by UDP."""
    addresses = site.addresses[4]
    with (
        site.relay.socket(socket.AF_INET, socket.SOCK_STREAM) as server,
        site.client.socket(socket.AF_INET, socket.SOCK_STREAM) as client,
    ):
        server.bind((addresses.vip, 22))
        server.listen()
        client.connect((addresses.vip, 22))
        accepted, _ = server.accept()
        with accepted:
            accepted.sendall(b"hello")
            assert client.recv(5, socket.MSG_WAITALL) == b"hello"
    with (
        site.transceiver.socket(socket.AF_INET) as server,
        site.relay.socket(socket.AF_INET) as resolver,
    ):
        server.bind((addresses.transceiver, 53))
        resolver.sendto(b"question", (addresses.transceiver, 53))
        question, asker = server.recvfrom(100)
        server.sendto(question, asker)
        assert resolver.recv(100) == b"question"


def check(site: Site, wrapper: tuple[str, ...]) -> dict[str, Finding]:
    said = earshot(site, "check", "-o", "json", wrapper=wrapper)
    rows = json.loads(said.out)["findings"]
    return {
        row["name"]: Finding(row["name"], Status(row["status"]), row["found"], row["cure"]) for row in rows
    }


def test_a_kernel_too_old(site: Site) -> None:
    finding = check(site, OLD_KERNEL)["kernel"]
    assert finding.status == "failed"
    assert finding.found.startswith("2.6.")
    assert finding.cure.startswith("use Linux 6.1 or newer")
    start(site.lab, site.relay, *OLD_KERNEL, *relay_command(site), name="earshotd")
    assert "event=host_unfit what=kernel" in site.lab.log("earshotd").read_text()


def test_a_kernel_without_btf(site: Site) -> None:
    finding = check(site, WITHOUT_BTF)["btf"]
    assert finding.status == "warning"
    assert "CONFIG_DEBUG_INFO_BTF" in finding.cure
    start(site.lab, site.relay, *WITHOUT_BTF, *relay_command(site), name="earshotd")
    assert "event=host_unfit what=btf" in site.lab.log("earshotd").read_text()
    calls_go(site)


def test_another_program_is_attached(site: Site) -> None:
    is_refused_beside_another(site, "xdpdrv")


def is_refused_beside_another(site: Site, mode: str) -> None:
    name = site.interfaces[1]
    site.relay.ip(f"link set dev {name} {mode} object {site.lab.dir}/pass.o section xdp")
    before = site.xdp_modes()
    assert before[name] != "none"
    finding = checked(site)[f"xdp {name}"]
    assert finding.status == "failed"
    assert f"ip link set dev {name} xdp off" in finding.cure
    assert f"{name}: another XDP program is attached: detach it (ip link set dev NAME xdp off" in refused(
        site
    )
    assert site.xdp_modes() == before
    site.relay.run("ip", "link", "set", "dev", name, mode, "off")
    start_relay(site)


def test_a_pin_path_that_is_not_on_one(site: Site) -> None:
    elsewhere = f"--pin-path={site.lab.dir}/pins"
    assert "is not on a BPF file system: mount -t bpf bpf /sys/fs/bpf" in refused(site, elsewhere)
    assert set(site.xdp_modes().values()) == {"none"}


def test_started_twice(site: Site) -> None:
    start_relay(site)
    second = popen_relay(site)
    assert second.wait(60) == 1
    log = site.lab.log("earshotd").read_text()
    assert f"{site.lab.pins} is in use: another earshotd runs on this pin_path" in log
    flags = (f"--pin-path={site.lab.pins}-2", f"--grpc-socket={site.lab.dir}/2.sock", "--metrics-listen=")
    other = popen_relay(site, *flags)
    assert other.wait(60) == 1
    assert "another XDP program is attached" in site.lab.log("earshotd").read_text()
    Path(f"{site.lab.pins}-2").rmdir()  # it has left nothing there
    assert set(site.xdp_modes().values()) == {"native"}
    calls_go(site)


def test_removed_while_calls_run(site: Site) -> None:
    daemon = start_relay(site)
    with (
        RelayClient(relay_target(site)) as relay,
        relay.attach("transceiver") as attachment,
        call(site, attachment, 4) as made,
    ):
        made.bind(requests=4)
        said = earshot(site, "datapath", "remove", "--yes")
        assert said.status == 1
        assert "in use" in said.err
        made.up(payload(RTP, 160))
        stop(daemon)
        made.up(payload(RTP, 160))
        assert earshot(site, "datapath", "remove", "--yes").status == 0
        assert set(site.xdp_modes().values()) == {"none"}
        assert not site.lab.pins.exists()
        before = site.stack_packets()
        made.client.sendto(payload(RTP, 160), made.vip)
        wait_for(lambda: site.stack_packets() > before, "the host's own stack has it")
        assert nothing_waits(made.transceiver)
