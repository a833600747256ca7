# SPDX-License-Identifier: Apache-2.0
"""What takes longer of a group of relays."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.fleet.events import (
    Record,
    assert_well,
    count,
    cut,
    hand_over,
    known_crowd,
    mend,
    report,
    restart,
    rounds,
    take_back,
    wait_for_return,
)
from tests.lab.calls import wait_for
from tests.lab.crowd import Crowd
from tests.lab.group import OUTER, STORE, Group, Member, serving_group
from tests.lab.traffic import UP, Traffic

pytestmark = [pytest.mark.root, pytest.mark.netns]

CALLS = 300


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    with serving_group(3) as made:
        yield made


@pytest.fixture(scope="module")
def crowd(group: Group) -> Iterator[Crowd]:
    with known_crowd(group, CALLS) as made:
        yield made


@pytest.fixture(scope="module")
def traffic(group: Group, crowd: Crowd) -> Iterator[Traffic]:
    with group.talking(crowd) as made:
        yield made


def test_a_planned_end(group: Group, traffic: Traffic, record_property: Record) -> None:
    """`earshot drain --handover`, then the router is told, and the host goes: nobody hears of it."""
    first = group.members[0]
    for happens, what in ((hand_over, "handed over, and ended"), (take_back, "and back")):
        with traffic.flowing() as phase:
            happens(group, first, rounds(traffic, 10))
        report(phase, record_property, what)
        assert phase.is_whole(), phase


def test_cut_off_from_the_store(group: Group, traffic: Traffic, record_property: Record) -> None:
    """Others promise it its addresses: it goes on with what it has, and takes new calls, told of later."""
    first, *others = group.members
    taken, flows = count(others, "relay_address_taken"), first.live_flows()
    more = Crowd(group.site, 6, media_port=44000, client_port=34000)
    with group.registered(more, "cut-off"), traffic.flowing() as phase:
        first.set_links("down", STORE)
        group.spread(first)
        traffic.wait_for_rounds(100)
        more.bind()
        assert [one.live_flows() - flows for one in group.members] == [6, 0, 0]
        assert count(others, "relay_address_taken") == taken
        first.set_links("up", STORE)
        group.wait_for_flows(flows + 6)
        group.spread(*group.members)
        traffic.wait_for_rounds(10)
    report(phase, record_property, "cut off from the store, and back")
    assert phase.is_whole(), phase
    group.wait_for_flows(flows)


def test_cut_off_from_clients(group: Group, traffic: Traffic, record_property: Record) -> None:
    """It notices, and lets its addresses go."""
    first = group.members[0]
    for happens, what in ((cut, "cut off from clients"), (mend, "and back")):
        with traffic.flowing() as phase:
            traffic.wait_for_rounds(10)
            happens(group, first, OUTER, rounds(traffic, 25))
        report(phase, record_property, what)
        assert_well(traffic)


def test_a_daemon_is_restarted(group: Group, traffic: Traffic, record_property: Record) -> None:
    with traffic.flowing() as phase:
        restart(group, group.members[0], rounds(traffic, 10))
    report(phase, record_property, "restarted")
    assert phase.is_whole(), phase


def test_another_key_is_taken_over_by_a_reload(group: Group, crowd: Crowd) -> None:
    """Where one relay was restarted since: what it is told of flows is sealed with the key that it has."""
    first, *others = group.members
    key = group.lab.dir / "fleet.key"
    known, held = key.read_text(), count([first], "relay_addresses_held")
    more = Crowd(group.site, 6, media_port=45000, client_port=35000)
    try:
        key.write_text("8" * 64 + "\n")
        for member in others:
            assert member.earshot("datapath", "reload").returncode == 0
        first.end(signal.SIGTERM)
        first.start()
        wait_for_return(group, first, held)
        flows = first.live_flows()
        with group.registered(more, "another-key"):
            group.spread(*others)
            more.bind()
            group.wait_for_flows(flows + 6)
    finally:
        key.write_text(known)
        for member in group.members:
            assert member.earshot("datapath", "reload").returncode == 0
    group.wait_for_flows(flows)
    group.spread(first, *others)


def test_a_relay_comes_late(group: Group, crowd: Crowd) -> None:
    """It is told of everything there is, and of what has ended while it was away."""
    first, second, *_ = group.members
    more = Crowd(group.site, 10, media_port=42000, client_port=31000)
    with group.registered(crowd) as attachment:
        second.end(signal.SIGKILL)
        group.spread(first)
        leaving = next(
            member
            for member, end in zip(crowd.members, crowd.relay_ends, strict=True)
            if end[0] in first.addresses
        )
        with group.registered(more, "late"):
            crowd.register(attachment, *(member for member in crowd.members if member is not leaving))
            more.bind()
            group.wait_for_flows(CALLS + 9, first)
            assert second.live_flows() == CALLS
            second.start()
            group.wait_for_flows(CALLS + 9, second)
    group.spread(first, second)


def test_silence_is_what_all_relays_hear(group: Group, crowd: Crowd, traffic: Traffic) -> None:
    """A flow whose packets all pass another relay than its own lives; without any, it ends everywhere."""
    first, second, *_ = group.members
    for member in group.members:
        member.end(signal.SIGTERM)
    group.start("--flow-idle-seconds=2")
    with group.registered(crowd):
        crowd.bind()
        group.spread(first)
        traffic.connect(crowd.legs())
        wait_for(lambda: first.live_flows() == second.live_flows() >= CALLS, "both know all", 20)
        with traffic.flowing(UP) as phase:
            owned = _owned(first, second)
            assert min(owned) > 0
            traffic.wait_for_rounds(250)
            assert _owned(first, second) == owned
        assert phase.is_whole(UP), phase
        group.wait_for_flows(0)


def _owned(*members: Member) -> list[int]:
    return [member.owns() for member in members]
