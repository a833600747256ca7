# SPDX-License-Identifier: Apache-2.0
"""What tests of a group have in common: what relays have logged, and how calls fare."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.lab.calls import wait_for
from tests.lab.crowd import Crowd
from tests.lab.group import Group, Member
from tests.lab.traffic import Phase, Traffic

Record = Callable[[str, object], None]


def count(members: list[Member], event: str) -> int:
    return sum(member.log().count(f"event={event} ") for member in members)


@contextmanager
def known_crowd(group: Group, calls: int) -> Iterator[Crowd]:
    """Calls that are bound at some relay of the group, and that all know."""
    made = Crowd(group.site, calls)
    with group.registered(made):
        made.bind()
        group.wait_for_flows(calls)
        yield made


@contextmanager
def taken_over(others: list[Member]) -> Iterator[None]:
    """Ends when others have taken both addresses of the relay to which something happens in the block."""
    taken = count(others, "relay_address_taken")
    yield
    wait_for(lambda: count(others, "relay_address_taken") == taken + 2, "they are taken", 30)


def hand_over(group: Group) -> None:
    """The first relay gives its calls to the others, and the router sends it no more packets."""
    first, *others = group.members
    said = first.earshot("drain", "--handover")
    assert said.returncode == 0, said.stderr
    assert said.stderr == f"Handed over: all calls are with {', '.join(one.name for one in others)}.\n"
    group.spread(*others)


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
