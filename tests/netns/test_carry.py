# SPDX-License-Identifier: Apache-2.0
"""The flow table is carried over to a larger one, or stays as it was."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

import numpy as np
import pytest

from control import abi, carry, flow_index, former_quality, libbpf, quality
from control.addresses import to_bytes
from control.config import Config, PortRange
from control.datapath import Datapath
from control.errors import DatapathError
from control.former_tables import RingTable
from control.loader import open_datapath
from control.maps import MappedArray
from tests.lab.netns import Lab
from tests.lab.topology import Site, two_armed
from tests.netns.command import config_of

pytestmark = [pytest.mark.root, pytest.mark.netns]

PORTS = 100
BOUND = (0, 7, PORTS + 5)  # on the IPv4 relay address, and on the IPv6 one


@pytest.fixture
def site() -> Iterator[Site]:
    with Lab() as lab:
        yield two_armed(lab)


@pytest.fixture
def config(site: Site) -> Config:
    """A relay that has some flows."""
    made = replace(config_of(site), relay_ports=PortRange(10000, 10000 + PORTS - 1))
    with site.relay.inside():
        loaded = open_datapath(made)
    for number in BOUND:
        bind(loaded.datapath, number)
    loaded.datapath.lay_out(loaded.datapath.layout)  # these are not free any more
    loaded.close()
    return made


def bind(datapath: Datapath, number: int) -> None:
    record = np.zeros(1, abi.FLOW)
    record["client_addr"], record["client_port"] = np.void(to_bytes(ip_address("198.51.100.1"))), number + 1
    record["state"] = 1 << abi.FLOW_STATE_BITS | abi.FlowState.LIVE
    datapath.flows[number] = record[0]
    flow_index.enter(datapath.index, datapath.flows, np.array([number], np.uint32), datapath.layout)


def larger(config: Config) -> Config:
    return replace(config, relay_addresses=(*config.relay_addresses, ip_address("10.20.0.2")))


def free(datapath: Datapath) -> list[list[int]]:
    return [sorted(datapath.free.waiting(family).tolist()) for family in (4, 6)]


def test_a_larger_table(site: Site, config: Config) -> None:
    with site.relay.inside():
        loaded = open_datapath(larger(config))
    datapath = loaded.datapath
    assert np.flatnonzero(datapath.states()).tolist() == list(BOUND)
    assert sorted(flow_index.numbers_in(datapath.index).tolist()) == list(BOUND)
    assert free(datapath) == [
        sorted({*range(PORTS), *range(2 * PORTS, 3 * PORTS)} - set(BOUND)),
        sorted(set(range(PORTS, 2 * PORTS)) - set(BOUND)),
    ]
    loaded.close()


def test_a_start_that_fails_leaves_the_table_as_it_was(site: Site, config: Config) -> None:
    """Here it is the second link that refuses the new program."""
    *_, second = sorted(config.pin_path.glob("link_*"), key=lambda pin: int(pin.name.removeprefix("link_")))
    held = libbpf.get_pinned(second)  # another program is attached, as far as anybody can tell
    for link in config.pin_path.glob("link_*"):
        link.unlink()
    with site.relay.inside(), pytest.raises(DatapathError, match="another XDP program is attached"):
        open_datapath(larger(config))
    os.close(held)
    with site.relay.inside():
        loaded = open_datapath(config)
    assert free(loaded.datapath) == [
        sorted(set(range(PORTS)) - set(BOUND)),
        sorted(set(range(PORTS, 2 * PORTS)) - set(BOUND)),
    ]
    assert not len(loaded.datapath.lost())
    loaded.close()


def test_numbers_in_a_ring_that_are_in_use_are_taken_out(site: Site, config: Config) -> None:
    """Somebody died in the moment in which the program took one of those that were being taken from it."""
    fd = libbpf.get_pinned(config.pin_path / "free_lists_v1")
    rings = MappedArray(fd, abi.FREE_LIST)
    os.close(fd)
    rings.array["tail"] = rings.array["head"]
    rings.array["head"][0] += 1
    rings.close()
    with site.relay.inside():
        loaded = open_datapath(config)
    assert free(loaded.datapath) == [
        sorted(set(range(PORTS)) - set(BOUND)),
        sorted(set(range(PORTS, 2 * PORTS)) - set(BOUND)),
    ]
    loaded.close()


def test_who_died_over_taking_free_numbers_is_repaired(site: Site, config: Config) -> None:
    """The same maps go on, or larger ones: the numbers are found by their records."""
    table = RingTable(config.pin_path, "flows_v2", abi.FLOW)
    table.take_free()
    table.close()
    with site.relay.inside():
        loaded = open_datapath(config)
        assert [len(numbers) for numbers in free(loaded.datapath)] == [PORTS - 2, PORTS - 1]
        assert not len(loaded.datapath.lost())
        loaded.close()
        loaded = open_datapath(larger(config))
        assert [len(numbers) for numbers in free(loaded.datapath)] == [2 * PORTS - 2, PORTS - 1]
        loaded.close()


def talked(datapath: Datapath, number: int, highest: int) -> None:
    """A stream of ten packets of the flow, none lost."""
    stream = datapath.quality["streams"][number, 0:1]
    stream["identity"] = int(datapath.flows["state"][number]) & ~15 | 7 << 32
    stream["received"], stream["highest"] = 10, highest
    stream["clock"] = abi.CLOCK_USUAL


def test_what_was_measured_goes_over(site: Site, config: Config) -> None:
    """To a larger table; but its numbers begin anew, so that what passes meanwhile does not look lost."""
    with site.relay.inside():
        loaded = open_datapath(config)
        talked(loaded.datapath, BOUND[1], 65000)
        loaded.close()
        loaded = open_datapath(larger(config))
    found = quality.of_flow(loaded.datapath, BOUND[1], 0)
    assert found is not None
    (stream,) = found.streams
    assert (stream.ssrc, stream.packets, stream.lost) == (7, 10, 0)
    assert loaded.datapath.quality["streams"]["highest"][BOUND[1], 0] == (65000 + 32768) % 65536
    loaded.close()


def test_flows_outlive_that_measuring_is_switched_off_and_on(site: Site, config: Config) -> None:
    off = replace(config, quality=False)
    with site.relay.inside():
        for chosen, is_on in ((off, False), (off, False), (config, True)):
            loaded = open_datapath(chosen)
            assert quality.is_on(loaded.datapath) is is_on
            assert len(loaded.datapath.quality) == (2 * PORTS if is_on else 1)
            assert np.flatnonzero(loaded.datapath.states()).tolist() == list(BOUND)
            assert not len(loaded.datapath.lost())
            loaded.close()


def test_flows_of_a_release_that_measured_nothing(site: Site, config: Config) -> None:
    """It had no such maps: they are made, and the flow table stays."""
    for name in (carry.QUALITY, carry.QUALITY_MORE):
        (config.pin_path / name).unlink()
    with site.relay.inside():
        loaded = open_datapath(config)
    assert quality.is_on(loaded.datapath)
    assert np.flatnonzero(loaded.datapath.states()).tolist() == list(BOUND)
    for name in (carry.QUALITY, carry.QUALITY_MORE):
        assert (config.pin_path / name).exists()
    loaded.close()


def test_what_was_measured_goes_over_from_one_map_to_two(site: Site, config: Config) -> None:
    """Streams of all four places, and the rest of the record; the former map is gone then."""
    for name in (carry.QUALITY, carry.QUALITY_MORE):
        (config.pin_path / name).unlink()
    fd = libbpf.create_map(former_quality.NAME, 2, former_quality.RECORD.itemsize, 2 * PORTS, 1 << 10)
    libbpf.pin(fd, config.pin_path / former_quality.NAME)
    former = MappedArray(fd, former_quality.RECORD)
    os.close(fd)
    record = former.array[BOUND[1] : BOUND[1] + 1]
    binding = 1 << abi.FLOW_STATE_BITS
    record["streams"]["identity"] = [
        binding | way | ssrc << 32 for ssrc, way in ((5, 0), (6, 1), (7, 0), (8, 1))
    ]
    record["streams"]["received"] = [50, 60, 70, 80]
    record["streams"]["clock"] = 8000 // abi.CLOCK_UNIT
    record["binding"], record["unmeasured"], record["clock"] = binding, 9, 8000 // abi.CLOCK_UNIT
    record["trips"]["microseconds"] = [11_000, 22_000]
    former.close()
    with site.relay.inside():
        loaded = open_datapath(config)
    found = quality.of_flow(loaded.datapath, BOUND[1], 0)
    clock = int(loaded.datapath.quality_more["clock"][BOUND[1]])
    loaded.close()
    assert found is not None
    assert [(one.direction, one.ssrc, one.packets) for one in found.streams] == [
        ("up", 5, 50),
        ("up", 7, 70),
        ("down", 6, 60),
        ("down", 8, 80),
    ]
    assert {one.clock_rate for one in found.streams} == {8000}
    assert (found.transceiver_rtt_ms, found.client_rtt_ms, found.unmeasured_packets) == (11, 22, 9)
    assert clock == 8000 // abi.CLOCK_UNIT
    assert not (config.pin_path / former_quality.NAME).exists()
