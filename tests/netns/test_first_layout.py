# SPDX-License-Identifier: Apache-2.0
"""Flows go over from the first layout, with queues of free numbers, and relay addresses told by a shift."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

import numpy as np
import pytest

from control import abi, carry, flow_index, libbpf
from control.addresses import to_bytes
from control.config import Config, PortRange
from control.datapath import Datapath
from control.errors import DatapathError
from control.loader import open_datapath
from control.maps import MappedArray
from tests.lab.netns import Lab
from tests.lab.topology import Site, two_armed
from tests.netns.command import config_of
from tests.netns.command import earshot_here as earshot
from tests.netns.schema import assert_fits

pytestmark = [pytest.mark.root, pytest.mark.netns]

PORTS = PortRange(10000, 10099)
PORT_BITS = 7
SECOND = 77
_ARRAY, _PERCPU_ARRAY, _QUEUE, _MMAPABLE = 2, 6, 22, 1 << 10
# By number of then: the state, and where the record is now.
FLOWS = {
    3: (abi.FlowState.LIVE, 3),
    4: (abi.FlowState.PROVISIONAL, 4),
    99: (abi.FlowState.SUPERSEDED, 99),
    1 << PORT_BITS | 0: (abi.FlowState.LIVE, 100),
    1 << PORT_BITS | 99: (abi.FlowState.DEAD, 199),
}


@pytest.fixture
def site() -> Iterator[Site]:
    with Lab() as lab:
        yield two_armed(lab)


@pytest.fixture
def config(site: Site) -> Config:
    """A relay whose maps are those that the first version would have left."""
    made = replace(config_of(site), relay_ports=PORTS)
    with site.relay.inside():
        open_datapath(made).close()
    for name in (*carry.TABLE, "locals_v2", "sources_v2", "scratch_v3", "reasons_v1", "last_hop_v1"):
        (made.pin_path / name).unlink()

    def pin(name: str, kind: int, value_size: int, entries: int, flags: int = 0) -> int:
        fd = libbpf.create_map(name, kind, value_size, entries, flags)
        libbpf.pin(fd, made.pin_path / name)
        return fd

    fds = [
        pin("flows_v1", _ARRAY, 64, 2 << PORT_BITS, _MMAPABLE),
        pin("locals_v1", _ARRAY, 16 + 24 * abi.LOCAL_SLOTS, 1),
        pin("free_flows4_v1", _QUEUE, 4, 100),
        pin("free_flows6_v1", _QUEUE, 4, 100),
        pin("flow_index_v1", _ARRAY, 4, 1),
        pin("sources_v1", _ARRAY, 8, 1),
        pin("scratch_v1", _PERCPU_ARRAY, 8328, 1),
        pin("reasons_v1", _PERCPU_ARRAY, 16, 50),
    ]
    layout = np.array([0, PORT_BITS], np.uint32).tobytes() + np.array([10000, 10099], np.uint16).tobytes()
    libbpf.update(fds[1], bytes(4), layout.ljust(16 + 24 * abi.LOCAL_SLOTS, b"\0"))
    flows = MappedArray(fds[0], abi.FLOW)
    for number, (state, _) in FLOWS.items():
        flows.array[number] = record(number, state)
    flows.close()
    for queue, first in ((fds[2], 0), (fds[3], 1 << PORT_BITS)):
        for port in range(100):
            if first | port not in FLOWS:
                libbpf.queue_push(queue, first | port)
    for fd in fds:
        os.close(fd)
    return made


def record(number: int, state: abi.FlowState) -> np.void:
    one = np.zeros(1, abi.FLOW)
    one["client_addr"], one["client_port"] = np.void(to_bytes(ip_address("198.51.100.1"))), number
    one["state"] = SECOND << abi.FLOW_STATE_BITS | state
    one["up_packets"] = number
    made: np.void = one[0]
    return made


def test_flows_go_over(site: Site, config: Config) -> None:
    with site.relay.inside():
        loaded = open_datapath(config)
    datapath = loaded.datapath
    for before, (state, now) in FLOWS.items():
        assert datapath.flows[now] == record(before, state)
    assert np.count_nonzero(datapath.states()) == len(FLOWS)
    assert_index_and_rings(datapath)
    assert len(datapath.reasons()) == len(abi.Reason)
    loaded.close()
    pins = {pin.name for pin in config.pin_path.iterdir()}
    assert pins.isdisjoint({*carry.obsolete(), "next", "commit"})
    with site.relay.inside():
        open_datapath(config).close()  # as any other, from now on


def test_earshot_shows_what_it_can(site: Site, config: Config) -> None:
    """Before earshotd has started: lists as of today's layout; of all else, what can be told instead."""
    fd = libbpf.get_pinned(config.pin_path / "flows_v1")
    flows = MappedArray(fd, abi.FLOW)
    os.close(fd)
    flows.array["vip"][1 << PORT_BITS] = 1
    flows.close()
    said = earshot(site, "flow", "list", "-o", "json")
    shown = {row["relay"]: (row["state"], row["client"], row["to_transceiver_packets"]) for row in said.json}
    assert_fits("flow list", said.json)
    assert shown == {
        "10.20.0.1:10003": ("live", "198.51.100.1:3", 3),
        "10.20.0.1:10099": ("superseded", "198.51.100.1:99", 99),
        "[fd00:20::1]:10000": ("live", "198.51.100.1:128", 128),
        "[fd00:20::1]:10099": ("dead", "198.51.100.1:227", 227),
    }
    assert "are of another version: " in said.err
    vips = earshot(site, "vip", "list", "-o", "json").json
    assert [row["flows"] for row in vips] == [1, 1]
    for command in ("session list", "transceiver list"):
        assert earshot(site, *command.split(), "-o", "json").json == []
    for command in ("map list", "map dump flows_v1", "drops --interval 0", "datapath status"):
        assert earshot(site, *command.split(), "-o", "json").json
    for command in ("flow show 1", "stats", "top --once", "why --from 192.0.2.1:5 --to 192.0.2.2:6"):
        refused = earshot(site, *command.split())
        assert (refused.status, refused.out) == (3, ""), command
        assert "of another version: " in refused.err
        assert "can be read: earshot map, drops, datapath status" in refused.err
    (config.pin_path / "flows_v1").unlink()
    without = earshot(site, "flow", "list")
    assert (without.status, without.out) == (3, "")
    assert "no flow table that this version knows" in without.err


def assert_index_and_rings(datapath: Datapath) -> None:
    indexed = {FLOWS[3][1], FLOWS[4][1], FLOWS[1 << PORT_BITS][1]}
    assert set(flow_index.numbers_in(datapath.index).tolist()) == indexed
    used = {now for _, now in FLOWS.values()}
    for family, numbers in ((4, range(100)), (6, range(100, 200))):
        assert sorted(datapath.free.waiting(family).tolist()) == sorted(set(numbers) - used)


def test_what_the_old_program_did_last_goes_over(site: Site, config: Config) -> None:
    """It has the last link still: a transceiver answers, and the client's former flow is superseded."""
    before = carry.Flows.find(config.pin_path)
    assert before is not None
    fd = libbpf.get_pinned(config.pin_path / "flows_v1")
    old = MappedArray(fd, abi.FLOW)
    os.close(fd)
    with site.relay.inside():
        loaded = open_datapath(config)
    old.array[4] = record(4, abi.FlowState.LIVE)
    old.array["down_packets"][4] = 1
    old.array[3] = record(3, abi.FlowState.SUPERSEDED)
    old.close()
    now = loaded.datapath
    now.flows["state"][100] = (SECOND + 1) << abi.FLOW_STATE_BITS | abi.FlowState.LIVE  # bound anew meanwhile
    for _ in range(2):  # by who died over it, and by who repairs it
        carry.Carrier({}, before, now, now.layout).carry_changes()
        assert now.states()[[3, 4, 100]].tolist() == [
            abi.FlowState.SUPERSEDED,
            abi.FlowState.LIVE,
            abi.FlowState.LIVE,
        ]
        assert now.flows["down_packets"][4] == 1
    before.close()
    loaded.close()


def test_other_ports_are_refused_and_nothing_happens(site: Site, config: Config) -> None:
    pins = {pin.name for pin in config.pin_path.iterdir()}
    with site.relay.inside(), pytest.raises(DatapathError, match="belong to relay ports 10000-10099"):
        open_datapath(replace(config, relay_ports=PortRange(10000, 10100)))
    assert {pin.name for pin in config.pin_path.iterdir()} == pins


def test_a_start_that_fails_gives_free_numbers_back(site: Site, config: Config) -> None:
    """The old program has to go on: here it is the second link that refuses the new one."""
    *_, second = sorted(config.pin_path.glob("link_*"), key=lambda pin: int(pin.name.removeprefix("link_")))
    held = libbpf.get_pinned(second)  # another program is attached, as far as anybody can tell
    for link in config.pin_path.glob("link_*"):
        link.unlink()
    pins = {pin.name for pin in config.pin_path.iterdir()}
    with site.relay.inside(), pytest.raises(DatapathError, match="another XDP program is attached"):
        open_datapath(config)
    os.close(held)
    assert {pin.name for pin in config.pin_path.iterdir()} == pins
    left: list[int] = []
    for name in ("free_flows4_v1", "free_flows6_v1"):
        fd = libbpf.get_pinned(config.pin_path / name)
        while (number := libbpf.queue_pop(fd)) is not None:
            left.append(number)
        os.close(fd)
    assert len(left) == len(set(left)) == 200 - len(FLOWS)
