# SPDX-License-Identifier: Apache-2.0
"""A relay of a group dies, freezes, is cut off, comes back: what becomes of calls, packet by packet.

Calls go on in every case. How long they are silent is measured and reported (docs/fleet.md), not asserted.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from tests.lab.calls import wait_for
from tests.lab.crowd import Crowd
from tests.lab.group import INNER, OUTER, STORE, Group, Member, group_of
from tests.lab.traffic import Phase, Traffic

pytestmark = [pytest.mark.root, pytest.mark.netns]

Record = Callable[[str, object], None]
CALLS = 60
LONG = bool(os.environ.get("EARSHOT_FLEET_LONG"))


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    with group_of(3 if LONG else 2, "--group-takeover") as made:
        made.start()
        for member in made.members:
            wait_for(lambda member=member: "event=relay_addresses_held" in member.log(), "its lease")  # type: ignore[misc]
        yield made
        for member in made.members:
            print(member.log()[-5000:])


@pytest.fixture(scope="module")
def crowd(group: Group) -> Iterator[Crowd]:
    """Calls that are bound at all relays, and that all know."""
    made = Crowd(group.site, CALLS)
    with group.registered(made):
        made.bind()
        group.wait_for_flows(CALLS)
        yield made


@pytest.fixture(scope="module")
def traffic(group: Group, crowd: Crowd) -> Iterator[Traffic]:
    with group.talking(crowd) as made:
        yield made


def count(members: list[Member], event: str) -> int:
    return sum(member.log().count(f"event={event} ") for member in members)


def report(phase: Phase, record: Record, what: str) -> None:
    record("silence", phase.silence)
    record("lost", sum(phase.lost.values()))
    print(f"{what}: {phase}")


def assert_well(traffic: Traffic) -> None:
    """All calls go on, both ways, and lose nothing."""
    with traffic.flowing() as phase:
        traffic.wait_for_rounds(10)
    assert phase.is_whole(), phase


def wait_for_return(group: Group, member: Member, held: int) -> None:
    """The relay has its addresses again, and nobody else has any."""
    wait_for(
        lambda: member.log().count("event=relay_addresses_held ") > held, "its addresses are its own", 60
    )
    wait_for(
        lambda: (
            count(group.members, "relay_address_taken") == count(group.members, "relay_address_given_back")
        ),
        "others have given them back",
        30,
    )


def test_a_frozen_daemon(group: Group, traffic: Traffic, record_property: Record) -> None:
    """Its host forwards what it has; another one answers for its addresses meanwhile. Nobody hears of it."""
    first, *others = group.members
    taken, held = count(others, "relay_address_taken"), count([first], "relay_addresses_held")
    with traffic.flowing() as phase:
        first.tell(signal.SIGSTOP)
        try:
            wait_for(lambda: count(others, "relay_address_taken") == taken + 2, "they are taken", 30)
            traffic.wait_for_rounds(10)
        finally:
            first.tell(signal.SIGCONT)
        wait_for_return(group, first, held)
        traffic.wait_for_rounds(10)
    report(phase, record_property, "frozen, and back")
    assert phase.is_whole(), phase


def test_a_dead_host(group: Group, crowd: Crowd, traffic: Traffic, record_property: Record) -> None:
    """Its links are down and its daemon is gone: calls are silent until another relay has its addresses."""
    first, *others = group.members
    taken, held = count(others, "relay_address_taken"), count([first], "relay_addresses_held")
    with traffic.flowing() as phase:
        traffic.wait_for_rounds(10)
        first.tell(signal.SIGKILL)
        first.set_links("down", OUTER, INNER, STORE)
        wait_for(lambda: count(others, "relay_address_taken") == taken + 2, "they are taken", 30)
        traffic.wait_for_rounds(25)
    report(phase, record_property, "dead")
    assert_well(traffic)
    with traffic.flowing() as phase:
        first.set_links("up", OUTER, INNER, STORE)
        first.start()
        with group.registered(crowd, first):
            wait_for_return(group, first, held)
            traffic.wait_for_rounds(10)
    report(phase, record_property, "and back")
    assert_well(traffic)
