# SPDX-License-Identifier: Apache-2.0
"""Relay addresses of the group's other relays: laid out here, and nothing is bound at them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from ipaddress import ip_address

import numpy as np
import pytest

from control import abi, hostlinks, loader, pinned
from control.abi import FlowState, Reason
from control.addresses import parse_endpoint, to_bytes
from control.config import Config, PortRange
from control.datapath import Datapath
from control.flows import Clock
from control.leaving import Leaving
from control.libbpf import Array
from control.loader import Loaded
from control.reaper import Reaper
from control.sessions import Registry
from control.streams import Streams
from tests.lab.host import Host
from tests.lab.netns import Lab

pytestmark = [pytest.mark.root, pytest.mark.netns]

SPAN, OWN = 100, ip_address("10.20.0.1")
OTHERS = ip_address("10.20.0.2"), ip_address("10.20.0.3")
CLIENT = ip_address("198.51.100.10")
EMPTY = Registry(max_sessions=1, max_backends=2, grace_seconds=1)


@pytest.fixture
def host() -> Iterator[tuple[Host, Config]]:
    with Lab() as lab:
        relay, far = lab.host("relay", is_relay=True), lab.host("far")
        lab.link(relay, far, ["198.51.100.1/24"], name_a="uplink")
        with relay.inside():
            yield (
                relay,
                Config(
                    interfaces=("uplink",),
                    vips=(parse_endpoint("203.0.113.1:3478"),),
                    relay_addresses=(OWN,),
                    group_relay_addresses=OTHERS[:1],
                    relay_ports=PortRange(40000, 40000 + SPAN - 1),
                    pin_path=lab.pins,
                    max_sessions=8,
                    max_backends=8,
                ),
            )


def enter(loaded: Loaded, relay: int, *ports: int) -> list[Reason]:
    flows = np.zeros(len(ports), abi.FOREIGN)
    flows["client_addr"], flows["client_port"] = np.void(to_bytes(CLIENT)), ports
    flows["number"] = [relay * SPAN + port for port in ports]
    flows["session"], flows["backend"], flows["second"] = 7, 1, 5
    return [Reason(outcome) for outcome in loaded.entering.enter(flows).tolist()]


def offered(datapath: Datapath) -> set[int]:
    """The relay addresses, by number, whose ports are in the ring."""
    return set((datapath.free.waiting(4) // SPAN).tolist())


def live_at(datapath: Datapath, relay: int) -> list[int]:
    flows: Array = datapath.flows_at(relay)
    return (flows - relay * SPAN).tolist()


def test_nothing_is_bound_at_them(host: tuple[Host, Config]) -> None:
    """They come, stay through restarts, and go as the configuration says, with the flows that are there."""
    _, config = host
    with closing(loader.open_datapath(config)) as loaded:
        datapath = loaded.datapath
        assert (datapath.present, datapath.foreign) == ({0: OWN, 1: OTHERS[0]}, {1})
        assert (offered(datapath), datapath.capacity(), datapath.leaving) == ({0}, SPAN, {})
        assert enter(loaded, 1, 3, 4) == [Reason.FORWARD_BOUND] * 2
    with closing(pinned.open_pinned(config.pin_path)) as there:
        assert (there.capacity(), live_at(there, 1)) == (SPAN, [3, 4])
    with closing(loader.open_datapath(config)) as loaded:
        assert (offered(loaded.datapath), live_at(loaded.datapath, 1)) == ({0}, [3, 4])
        # One more, in larger maps, to which the flows go over; and the program that enters is theirs.
        more = replace(config, group_relay_addresses=OTHERS)
        former = loaded.apply(more, hostlinks.find(config.interfaces))
        assert former is not None
        former.close()
        datapath = loaded.datapath
        assert (datapath.foreign, offered(datapath), live_at(datapath, 1)) == ({1, 2}, {0}, [3, 4])
        assert enter(loaded, 2, 5) == [Reason.FORWARD_BOUND]
        assert enter(loaded, 1, 3) == [Reason.FORWARD_TO_TRANSCEIVER]
        # Of a relay that is no more it is as if the address had been ours.
        reaper = Reaper(datapath, EMPTY, Streams(), 60)
        assert loaded.apply(config, hostlinks.find(config.interfaces)) is None
        assert (datapath.foreign, datapath.leaving) == ({1}, {2: OTHERS[1]})
        Leaving(datapath, reaper, 0, Clock(1.0, 0))
        assert live_at(datapath, 2) == []
        assert live_at(datapath, 1) == [3, 4]
        # And taken over for good, new flows are bound at it.
        ours = replace(config, relay_addresses=(OWN, OTHERS[0]), group_relay_addresses=())
        assert loaded.apply(ours, hostlinks.find(config.interfaces)) is None
        assert (datapath.foreign, offered(datapath), live_at(datapath, 1)) == (set(), {0, 1}, [3, 4])
        assert datapath.capacity() == 2 * SPAN


def test_ended_ones_are_free_and_in_no_ring(host: tuple[Host, Config]) -> None:
    """The daemon ends and frees them as any other flow, and looks for none of them as lost."""
    _, config = host
    with closing(loader.open_datapath(config)) as loaded:
        datapath = loaded.datapath
        assert enter(loaded, 1, 3) == [Reason.FORWARD_BOUND]
        registry = Registry(max_sessions=8, max_backends=8, grace_seconds=30)
        reaper = Reaper(datapath, registry, Streams(), 60)
        reaper.scan(Clock(10.0, int(datapath.flows["last_seen"][SPAN + 3])))  # nobody knows its session
        assert datapath.states()[SPAN + 3] == FlowState.DEAD
        assert enter(loaded, 1, 3) == [Reason.DROP_FREE_LIST]
        reaper.scan(Clock(12.0, 0))
        assert datapath.states()[SPAN + 3] == FlowState.FREE
        assert (offered(datapath), len(datapath.lost())) == ({0}, 0)
        assert enter(loaded, 1, 3) == [Reason.FORWARD_BOUND]
