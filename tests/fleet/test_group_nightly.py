# SPDX-License-Identifier: Apache-2.0
"""What takes longer of a group of relays."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from control import loader
from tests.fleet.events import (
    Record,
    assert_well,
    count,
    hand_over,
    known_crowd,
    report,
    taken_over,
    wait_for_return,
)
from tests.lab.calls import wait_for
from tests.lab.crowd import Crowd
from tests.lab.group import INNER, OUTER, STORE, Group, Member, serving_group
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
    first, *others = group.members
    held = count([first], "relay_addresses_held")
    with traffic.flowing() as phase:
        hand_over(group)
        first.end(signal.SIGTERM)
        first.set_links("down", OUTER, INNER, STORE)
        traffic.wait_for_rounds(10)
    report(phase, record_property, "handed over, and ended")
    assert phase.is_whole(), phase
    with traffic.flowing() as phase:
        first.set_links("up", OUTER, INNER, STORE)
        first.start()
        wait_for_return(group, first, held)
        group.spread(first, *others)
        assert first.earshot("undrain").returncode == 0
        traffic.wait_for_rounds(10)
    report(phase, record_property, "and back")
    assert phase.is_whole(), phase


def test_cut_off_from_the_store(group: Group, traffic: Traffic, record_property: Record) -> None:
    """Others take its addresses; it goes on with what it has."""
    first, *others = group.members
    held = count([first], "relay_addresses_held")
    with traffic.flowing() as phase:
        with taken_over(others):
            first.set_links("down", STORE)
        traffic.wait_for_rounds(25)
        first.set_links("up", STORE)
        wait_for_return(group, first, held)
        traffic.wait_for_rounds(10)
    report(phase, record_property, "cut off from the store, and back")
    assert phase.is_whole(), phase


def test_cut_off_from_clients(group: Group, traffic: Traffic, record_property: Record) -> None:
    """It notices, and lets its addresses go."""
    first, *others = group.members
    held = count([first], "relay_addresses_held")
    with traffic.flowing() as phase:
        traffic.wait_for_rounds(10)
        with taken_over(others):
            first.set_links("down", OUTER)
        traffic.wait_for_rounds(25)
    report(phase, record_property, "cut off from clients")
    assert_well(traffic)
    with traffic.flowing() as phase:
        first.set_links("up", OUTER)
        wait_for_return(group, first, held)
        traffic.wait_for_rounds(25)
    report(phase, record_property, "and back")
    assert_well(traffic)


def test_a_daemon_is_restarted(group: Group, traffic: Traffic, record_property: Record) -> None:
    first, *others = group.members
    held = count([first], "relay_addresses_held")
    with traffic.flowing() as phase:
        with taken_over(others):
            first.end(signal.SIGTERM)
        first.start()
        wait_for_return(group, first, held)
        traffic.wait_for_rounds(10)
    report(phase, record_property, "restarted")
    assert phase.is_whole(), phase


def test_a_host_starts_anew(group: Group, traffic: Traffic, record_property: Record) -> None:
    """All that it knew is gone. It has its flows again before it has its addresses."""
    first, *others = group.members
    owned, recalled = first.owns(), count([first], "own_flows_recalled")
    held = count([first], "relay_addresses_held")
    with traffic.flowing() as phase:
        with taken_over(others):
            first.tell(signal.SIGKILL)
            first.set_links("down", OUTER, INNER, STORE)
        assert first.daemon is not None
        first.daemon.wait(20)
        loader.remove(first.pins)
        traffic.wait_for_rounds(10)
    report(phase, record_property, "dead")
    with traffic.flowing() as phase:
        group.spread(*others)  # its health check says nothing yet
        first.set_links("up", OUTER, INNER, STORE)
        first.start()
        # Its sessions come by the directory.
        wait_for(lambda: count([first], "own_flows_recalled") == recalled + 1, "its flows are back", 60)
        assert first.owns() == owned
        wait_for_return(group, first, held)
        group.spread(first, *others)
        traffic.wait_for_rounds(10)
    report(phase, record_property, "started anew")
    assert phase.is_whole(), phase
    assert_well(traffic)


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
        with traffic.flowing(UP) as phase:
            wait_for(lambda: first.live_flows() == second.live_flows() >= CALLS, "both know all", 20)
            owned = _owned(first, second)
            assert min(owned) > 0
            traffic.wait_for_rounds(250)
            assert _owned(first, second) == owned
        assert phase.is_whole(UP), phase
        group.wait_for_flows(0)


def _owned(*members: Member) -> list[int]:
    return [member.owns() for member in members]
