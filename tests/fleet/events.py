# SPDX-License-Identifier: Apache-2.0
"""What tests of a group have in common: what happens to its relays, what they have logged, how calls fare.

What happens takes `talk`, by which calls go on for a while when it has happened; who sends them knows how.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from control import loader
from tests.lab.calls import wait_for
from tests.lab.crowd import Crowd
from tests.lab.group import INNER, OUTER, STORE, Group, Member
from tests.lab.traffic import Phase, Traffic

Record = Callable[[str, object], None]
Talk = Callable[[], None]


def count(members: list[Member], event: str) -> int:
    return sum(member.log().count(f"event={event} ") for member in members)


def state_of(member: Member) -> str:
    """As `earshot fleet status` shows it."""
    said = json.loads(member.earshot("fleet", "status", "-o", "json").stdout)
    return next(str(relay["state"]) for relay in said["relays"] if relay["this"])


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


def freeze(group: Group, member: Member, talk: Talk) -> None:
    """Its daemon freezes; others take its addresses; it goes on, and has them back."""
    held = count([member], "relay_addresses_held")
    try:
        with taken_over(group.others(member)):
            member.tell(signal.SIGSTOP)
        talk()
    finally:
        member.tell(signal.SIGCONT)
    wait_for_return(group, member, held)
    talk()


def die(group: Group, member: Member, talk: Talk) -> None:
    """Its links are down and its daemon is gone, at once; others take its addresses."""
    with taken_over(group.others(member)):
        member.tell(signal.SIGKILL)
        member.set_links("down", OUTER, INNER, STORE)
    assert member.daemon is not None
    member.daemon.wait(20)
    talk()


def come_back(group: Group, member: Member, talk: Talk) -> None:
    """Its links are up and its daemon runs, with the maps that it had; it has its addresses back."""
    held = count([member], "relay_addresses_held")
    # The router sends clients' packets as soon as that link is up: they need a way on.
    member.set_links("up", INNER, STORE)
    member.set_links("up", OUTER)
    member.start()
    wait_for_return(group, member, held)
    talk()


def start_anew(group: Group, member: Member, talk: Talk) -> None:
    """A host that has died is there again, and has lost its maps. It has its flows before its addresses, and
    asks for packets when it has those of the others, too."""
    loader.remove(member.pins)
    held = count([member], "relay_addresses_held")
    group.spread(*group.others(member))  # its health check says nothing yet
    member.set_links("up", OUTER, INNER)
    member.start()
    assert (member.is_ready(), state_of(member)) == (False, "joining")
    # Its sessions come by the directory, its flows and those of the others from the group.
    member.set_links("up", STORE)
    wait_for(member.is_ready, "its health check says that it serves", 60)
    assert member.live_flows() == group.others(member)[0].live_flows(), "it knows all calls"
    wait_for_return(group, member, held)
    group.spread(*group.members)
    talk()


def cut(group: Group, member: Member, link: str, talk: Talk) -> None:
    """One of its links to clients or transceivers is down; others take its addresses."""
    with taken_over(group.others(member)):
        member.set_links("down", link)
    talk()


def mend(group: Group, member: Member, link: str, talk: Talk) -> None:
    """The link is up; it has its addresses back."""
    held = count([member], "relay_addresses_held")
    member.set_links("up", link)
    wait_for_return(group, member, held)
    talk()


def lose_store(group: Group, member: Member, talk: Talk) -> None:
    """Its way to Redis is gone; the others promise it its addresses, and take none."""
    taken = count(group.others(member), "relay_address_taken")
    member.set_links("down", STORE)
    talk()
    assert count(group.others(member), "relay_address_taken") == taken


def find_store(group: Group, member: Member, talk: Talk) -> None:
    """The way to Redis is there again."""
    member.set_links("up", STORE)
    talk()


def restart(group: Group, member: Member, talk: Talk) -> None:
    """Its daemon ends, and is started when others have taken its addresses."""
    held = count([member], "relay_addresses_held")
    with taken_over(group.others(member)):
        member.end(signal.SIGTERM)
    member.start()
    wait_for_return(group, member, held)
    talk()


def hand_over(group: Group, member: Member, talk: Talk) -> None:
    """It gives its calls to the others, the router sends it no more packets, and its host goes."""
    others = group.others(member)
    said = member.earshot("drain", "--handover")
    assert said.returncode == 0, said.stderr
    assert said.stderr == f"Handed over: all calls are with {', '.join(one.name for one in others)}.\n"
    group.spread(*others)
    member.end(signal.SIGTERM)
    member.set_links("down", OUTER, INNER, STORE)
    talk()


def take_back(group: Group, member: Member, talk: Talk) -> None:
    """The host is there again, has its addresses back, and the router sends it packets."""
    come_back(group, member, lambda: group.spread(*group.members))
    assert member.earshot("undrain").returncode == 0
    talk()


def rounds(traffic: Traffic, number: int) -> Talk:
    """Counted packets go on for so many rounds."""
    return lambda: traffic.wait_for_rounds(number)


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
