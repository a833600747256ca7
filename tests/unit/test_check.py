# SPDX-License-Identifier: Apache-2.0
"""What each check makes of what it finds, fit and unfit."""

from __future__ import annotations

import errno
import json
from ipaddress import ip_address
from pathlib import Path

import pytest
from click.testing import CliRunner

from control.addresses import Endpoint
from control.check import addresses, host, interfaces
from control.check.finding import Status
from control.check.links import Link
from control.cli.main import cli
from control.config import Config, PortRange

ETH0 = Link("eth0", 2, True, True, True, 1500, "", 0, {})
VETH = ETH0._replace(name="veth0", kind="veth", lower=5)
PORTS = PortRange(10000, 32767)


@pytest.mark.parametrize(
    ("release", "status"),
    [
        ("6.1.0-18-amd64", Status.OK),
        ("6.18.44", Status.OK),
        ("10.0", Status.OK),
        ("6.0.19", Status.FAILED),
        ("5.15.0-100-generic", Status.FAILED),
        ("unknown", Status.WARNING),
    ],
)
def test_kernel(release: str, status: Status) -> None:
    assert host.kernel(release).status == status


def test_btf(tmp_path: Path) -> None:
    assert host.btf(tmp_path).status == Status.OK
    assert host.btf(tmp_path / "missing").status == Status.WARNING


@pytest.mark.parametrize(
    ("effective", "missing"),
    [
        ("000001ffffffffff", []),
        ("000000c000001000", []),  # the three alone
        ("0000000000201000", []),  # CAP_SYS_ADMIN has two of them in it
        ("000000c000000000", ["CAP_NET_ADMIN"]),
        ("0000008000001000", ["CAP_PERFMON"]),
        ("0000000000000000", ["CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF"]),
    ],
)
def test_capabilities(effective: str, missing: list[str]) -> None:
    finding = host.capabilities(f"Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t{effective}\nCapBnd:\t0\n")
    assert finding.status == (Status.FAILED if missing else Status.OK)
    if missing:
        assert finding.found == f"this process lacks {', '.join(missing)}"


def test_a_pin_path_beside_the_bpf_file_system() -> None:
    assert host.bpf_file_system(Path("/tmp/earshot")).status == Status.FAILED


def test_lo_forwarding(tmp_path: Path) -> None:
    setting = tmp_path / "forwarding"
    assert host.lo_forwarding([setting]).status == Status.OK  # a kernel without that family
    for value in ("0\n", "1\n"):
        setting.write_text(value)
        assert host.lo_forwarding([setting]).status == Status.OK
        assert setting.read_text() == value
    assert host.lo_forwarding([tmp_path]).status == Status.FAILED  # it cannot be written


@pytest.mark.parametrize(
    ("link", "status", "found"),
    [
        (ETH0, Status.OK, "up, driver virtio_net, MTU 1500"),
        (ETH0._replace(is_ethernet=False), Status.FAILED, "is not an Ethernet link"),
        (ETH0._replace(is_up=False), Status.FAILED, "is down"),
        (ETH0._replace(has_carrier=False), Status.WARNING, "has no carrier"),
    ],
)
def test_link_state(link: Link, status: Status, found: str) -> None:
    finding = interfaces.link_state(link, "virtio_net")
    assert (finding.status, finding.found) == (status, found)


def attaches(ifindex: int) -> None:
    """A driver that can."""


def refuses(ifindex: int) -> None:
    """A driver that cannot."""
    raise OSError(errno.EOPNOTSUPP, "Operation not supported: the driver's words")


def may_not(ifindex: int) -> None:
    """A user who has not the rights."""
    raise OSError(errno.EPERM, "attach")


def must_not_be_tried(ifindex: int) -> None:
    raise AssertionError(ifindex)


def test_xdp_on_a_link_without_a_program() -> None:
    assert interfaces.xdp(ETH0, 0, "native", attaches, "a cure").status == Status.OK
    assert "was not tried" in interfaces.xdp(ETH0, 0, "auto", None, "a cure").found
    refused = interfaces.xdp(ETH0, 0, "native", refuses, "a cure")
    assert (refused.status, refused.cure) == (Status.FAILED, "a cure")
    assert refused.found == "cannot attach in native mode: Operation not supported: the driver's words"
    falls_back = interfaces.xdp(ETH0, 0, "auto", refuses, "a cure")
    assert (falls_back.status, falls_back.cure) == (Status.WARNING, "a cure")
    assert "all links get it in generic mode" in falls_back.found
    assert interfaces.xdp(ETH0, 0, "auto", may_not, "a cure").status == Status.FAILED


def test_what_may_make_native_mode_work() -> None:
    jumbo = ETH0._replace(mtu=9001)
    cure = interfaces.native_cure(jumbo, {"rx-lro": "lro"}, "ethtool -L eth0 combined 4")
    assert cure.startswith(
        "ethtool -K eth0 lro off; ip link set dev eth0 mtu 1500; ethtool -L eth0 combined 4; "
    )
    assert cure.endswith("or xdp_mode = 'generic', which needs nothing of the driver")
    assert interfaces.native_cure(ETH0, {}, "").startswith("xdp_mode = 'generic'")
    assert interfaces.native_cure(ETH0._replace(kind="vlan"), {}, "").startswith("a vlan has none")


def test_xdp_on_a_link_with_a_program() -> None:
    link = ETH0._replace(programs={"native": 17})
    for mode in ("auto", "native"):
        ours = interfaces.xdp(link, 17, mode, must_not_be_tried, "")
        assert (ours.status, ours.found) == (Status.OK, "earshotd's XDP program (id 17, native) is attached")
    other = interfaces.xdp(link, 16, "auto", must_not_be_tried, "")
    assert other.status == Status.FAILED
    assert other.found == "another XDP program (id 17, native) is attached"
    assert interfaces.xdp(link, None, "auto", None, "").status == Status.WARNING
    changed = interfaces.xdp(link, 17, "generic", must_not_be_tried, "")
    assert (changed.status, "though xdp_mode is generic" in changed.found) == (Status.WARNING, True)
    slow = interfaces.xdp(ETH0._replace(programs={"generic": 17}), 17, "auto", must_not_be_tried, "")
    assert (slow.status, "three times the CPU" in slow.found) == (Status.WARNING, True)


def test_the_other_end_of_a_veth() -> None:
    elsewhere = interfaces.veth_peer(VETH, None, is_native=True)
    assert "another network namespace" in elsewhere.found
    assert "attach a native XDP program" in elsewhere.cure
    assert interfaces.veth_peer(VETH, None, is_native=False).cure == "over there: ethtool -K IF tx off"
    peer = ETH0._replace(name="peer0")
    assert interfaces.veth_peer(VETH, peer, is_native=True).status == Status.WARNING
    assert interfaces.veth_peer(VETH, peer, is_native=False).status == Status.OK
    passing = peer._replace(programs={"native": 3})
    assert interfaces.veth_peer(VETH, passing, is_native=True).status == Status.OK


def test_links_that_are_not_there() -> None:
    links = {2: ETH0, 3: ETH0._replace(name="eth1", ifindex=3, mtu=9000)}
    config = Config(
        interfaces=("eth0", "eth9", "eth1"),
        vips=(Endpoint(ip_address("203.0.113.1"), 3478),),
        relay_addresses=(ip_address("10.0.0.1"),),
    )
    found = list(interfaces.findings(config, links, {}, None))
    assert [(finding.name, finding.status) for finding in found] == [
        ("interface eth9", Status.FAILED),
        ("interface eth0", Status.OK),
        ("xdp eth0", Status.OK),
        ("interface eth1", Status.OK),
        ("xdp eth1", Status.OK),
        ("offloads eth0", Status.OK),
        ("offloads eth1", Status.OK),
        ("mtu", Status.OK),
    ]
    assert found[0].cure == "set interfaces to some of: eth0, eth1"


def test_addresses_of_the_host() -> None:
    vip = ip_address("203.0.113.1")
    lo = ETH0._replace(name="lo", is_ethernet=False)
    for link in (lo, ETH0, ETH0._replace(name="vips", kind="dummy")):
        assert addresses.is_own("vip", vip, {vip: link}, ["eth0"]).status == Status.OK
    elsewhere = addresses.is_own("vip", vip, {vip: ETH0._replace(name="eth0.5", kind="vlan")}, ["eth0"])
    assert elsewhere.status == Status.WARNING
    assert elsewhere.found == "is an address of eth0.5, which is not among the interfaces"
    routed = addresses.is_own("vip", ip_address("2001:db8::1"), {vip: lo}, ["eth0"])
    assert routed.status == Status.WARNING
    assert "ip address add 2001:db8::1/128 dev lo" in routed.cure


@pytest.mark.parametrize(
    ("ephemeral", "reserved", "status"),
    [
        (PortRange(32768, 60999), "", Status.OK),
        (PortRange(1024, 60999), "", Status.WARNING),
        (PortRange(32767, 60999), "", Status.WARNING),
        (PortRange(32767, 60999), "32767", Status.OK),
        (PortRange(1024, 60999), "22,10000-20000,20001-32767", Status.OK),
        (PortRange(1024, 60999), "10000-32766", Status.WARNING),
    ],
)
def test_relay_ports(ephemeral: PortRange, reserved: str, status: Status) -> None:
    assert addresses.relay_ports(PORTS, ephemeral, addresses.reserved(f"{reserved}\n")).status == status


def test_every_finding_that_is_not_ok_has_a_cure() -> None:
    for finding in (
        host.kernel("5.4"),
        host.capabilities(""),
        interfaces.veth_peer(VETH, None, is_native=True),
        interfaces.xdp(ETH0, 0, "generic", refuses, ""),
    ):
        assert finding.status != Status.OK
        assert finding.cure


@pytest.mark.parametrize(
    ("text", "field"),
    [("interfaces = [", "config"), ('interfaces = ["eth0"]', "vips"), ("nonsense = 1", "nonsense")],
)
def test_a_wrong_configuration_fails_and_names_the_field(tmp_path: Path, text: str, field: str) -> None:
    path = tmp_path / "earshotd.toml"
    path.write_text(text)
    result = CliRunner().invoke(cli, ["check", "--config", str(path), "-o", "json"])
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["fit"] is False
    assert report["findings"][0]["name"] == "configuration"
    assert report["findings"][0]["status"] == "failed"
    assert report["findings"][0]["found"].startswith(f"{field}: ")
    assert {tuple(finding) for finding in report["findings"]} == {("name", "status", "found", "cure")}
