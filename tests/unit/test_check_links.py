# SPDX-License-Identifier: Apache-2.0
"""What checks make of MTUs, of ports, bonds and VLANs, and of offloads: of NICs, too, that are not here."""

from __future__ import annotations

import pytest

from control.check import mtu, offloads, placement
from control.check.finding import Finding, Status
from control.check.links import Link

ETH0 = Link("eth0", 2, True, True, True, 1500, "", 0, {})
ETH1 = ETH0._replace(name="eth1", ifindex=3)
BOND = ETH0._replace(name="bond0", ifindex=7, kind="bond")
TAGS_TAKEN_OFF = frozenset({placement.TAG_HIDDEN})


@pytest.mark.parametrize(
    ("mtus", "largest", "status", "says"),
    [
        ((1500, 1500), 1500, Status.OK, "1500 on all links"),
        ((1460, 1460), 1500, Status.OK, "1460 on all links"),
        ((1500, 9001), 1500, Status.OK, "of 1500 bytes at most, fits them all"),
        ((1400, 1500), 1400, Status.OK, "of 1400 bytes at most, fits them all"),
        ((1500, 1400), 1500, Status.FAILED, "of 1401 to 1500 bytes that comes by eth0 cannot leave by eth1"),
        ((1450, 9000), 1500, Status.FAILED, "of 1451 to 1500 bytes that comes by eth1 cannot leave by eth0"),
        ((1500, 9000), 2000, Status.FAILED, "of 1501 to 2000 bytes that comes by eth1 cannot leave by eth0"),
        ((1279, 1279), 1280, Status.FAILED, "eth0 takes at most 1279"),
        ((1280, 1280), 1280, Status.OK, "1280 on all links"),
    ],
)
def test_mtus(mtus: tuple[int, int], largest: int, status: Status, says: str) -> None:
    finding = mtu.mtus([ETH0._replace(mtu=mtus[0]), ETH1._replace(mtu=mtus[1])], largest)
    assert finding.status == status
    assert says in finding.found


NOTHING: frozenset[str] = frozenset()


def placed(
    link: Link,
    others: list[Link],
    wanted: tuple[str, ...] = (),
    mode: str = "auto",
    features: frozenset[str] = NOTHING,
) -> list[Finding]:
    there = {one.ifindex: one for one in (link, *others)}
    return list(placement.findings(link, there, (link.name, *wanted), features, mode))


def test_a_link_that_stands_alone() -> None:
    assert placed(ETH0, [ETH1], ("eth1",), features=TAGS_TAKEN_OFF) == []


@pytest.mark.parametrize("kind", ["bond", "bridge", "openvswitch", ""])
def test_a_port(kind: str) -> None:
    (finding,) = placed(ETH0._replace(master=7, port_of=kind), [BOND])
    assert finding.status == Status.FAILED
    assert finding.found.startswith(f"is a port of bond0 ({kind or 'of unknown kind'})")
    assert finding.cure == "name bond0 in interfaces instead"
    (finding,) = placed(ETH0._replace(master=9, port_of=kind), [BOND])
    assert finding.status == Status.FAILED


def test_a_port_of_a_vrf() -> None:
    (finding,) = placed(ETH0._replace(master=7, port_of="vrf"), [BOND._replace(kind="vrf")])
    assert finding.status == Status.WARNING
    assert "main table" in finding.found


@pytest.mark.parametrize(
    ("bond_mode", "policy", "mode", "status", "says"),
    [
        (0, 0, "auto", Status.OK, "balance-rr"),
        (1, 5, "native", Status.OK, "active-backup"),
        (2, 1, "auto", Status.OK, "balance-xor"),
        (4, 1, "auto", Status.OK, "802.3ad"),
        (4, 5, "auto", Status.WARNING, "802.3ad with the xmit_hash_policy vlan+srcmac has no native XDP"),
        (4, 5, "generic", Status.OK, "802.3ad"),
        (3, 0, "auto", Status.WARNING, "broadcast has no native XDP"),
        (5, 0, "native", Status.WARNING, "balance-tlb has no native XDP"),
        (6, 0, "generic", Status.OK, "balance-alb"),
        (9, 0, "auto", Status.WARNING, "mode 9 has no native XDP"),
    ],
)
def test_a_bond(bond_mode: int, policy: int, mode: str, status: Status, says: str) -> None:
    (finding,) = placed(BOND._replace(bond_mode=bond_mode, bond_policy=policy), [], mode=mode)
    assert finding.status == status
    assert finding.found.startswith(says)


def test_vlans_on_a_link() -> None:
    vlan = ETH0._replace(name="eth0.5", ifindex=8, kind="vlan", lower=ETH0.ifindex)
    assert placed(vlan, [ETH0], features=TAGS_TAKEN_OFF) == []  # attached to itself: there is no tag any more
    assert placed(ETH0, [vlan]) == []  # the program sees the tag, and lets such a frame be
    (finding,) = placed(ETH0, [vlan], features=TAGS_TAKEN_OFF)
    assert finding.status == Status.WARNING
    assert finding.cure.startswith("ethtool -K eth0 rxvlan off")
    (finding,) = placed(ETH0, [vlan], ("eth0.5",), features=TAGS_TAKEN_OFF)
    assert finding.status == Status.FAILED
    assert "eth0.5" in finding.found


@pytest.mark.parametrize(
    ("features", "driver", "status", "cure"),
    [
        ({"rx-gro", "rx-gro-list"}, "ice", Status.OK, ""),
        ({"rx-lro"}, "ixgbe", Status.WARNING, "ethtool -K eth0 lro off"),
        ({"rx-lro", "rx-gro-hw"}, "mlx5_core", Status.WARNING, "ethtool -K eth0 lro off rx-gro-hw off"),
        ({"rx-gro-hw"}, "virtio_net", Status.OK, ""),
    ],
)
def test_offloads_beside_native_xdp(features: set[str], driver: str, status: Status, cure: str) -> None:
    finding = offloads.native(ETH0, driver, features)
    assert (finding.status, finding.cure) == (status, cure)
    running = offloads.native(ETH0._replace(programs={"native": 3}), driver, features)
    assert running.status == Status.OK  # the driver has taken it


def test_offloads_below_generic_xdp() -> None:
    assert offloads.generic(ETH0, {"rx-gro", "rx-lro", "rx-gro-hw"}).status == Status.OK
    finding = offloads.generic(ETH0, {"rx-gro-list", "rx-udp-gro-forwarding"})
    assert finding.status == Status.FAILED
    assert finding.cure == "ethtool -K eth0 rx-gro-list off rx-udp-gro-forwarding off"


def test_what_is_below_a_link() -> None:
    vlan = ETH0._replace(name="eth0.5", ifindex=8, kind="vlan", lower=ETH0.ifindex)
    veth = ETH0._replace(name="veth0", ifindex=9, kind="veth", lower=ETH1.ifindex)
    ports = [ETH0._replace(master=7), ETH1._replace(master=7)]
    assert offloads.below(BOND, {one.ifindex: one for one in (BOND, *ports)}) == ports
    assert offloads.below(vlan, {2: ETH0, 3: ETH1, 8: vlan}) == [ETH0]
    assert offloads.below(vlan, {8: vlan}) == []  # it is in another network namespace
    assert offloads.below(veth, {3: ETH1, 9: veth}) == []
