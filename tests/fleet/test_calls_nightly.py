# SPDX-License-Identifier: Apache-2.0
"""Relays of a group die, freeze, are cut off, come back, under real calls of aiortc and of libnice.

No call is dropped, whatever happens, and a planned end loses nothing. For how long a call hears nothing, by
event, kind of client and direction, is reported (docs/fleet.md); of a death it is a second at most, at the
99th percentile. EARSHOT_FLEET_CALLS: how many calls, where 300 are too many.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator

import pytest

from tests.fleet.events import (
    Record,
    Talk,
    come_back,
    cut,
    die,
    find_store,
    freeze,
    hand_over,
    lose_store,
    mend,
    restart,
    start_anew,
    take_back,
)
from tests.fleet.gaps import Gaps, gaps_of
from tests.fleet.voices import Voices, pause, voices
from tests.lab.calls import wait_for
from tests.lab.group import OUTER, Group, Member, serving_group

pytestmark = [
    pytest.mark.root,
    pytest.mark.netns,
    pytest.mark.e2e,
    pytest.mark.nightly,
    pytest.mark.timeout(900),
]

CALLS = int(os.environ.get("EARSHOT_FLEET_CALLS", "300"))
MOST_SECONDS = 1.0  # of silence after a death


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    # A transceiver that has lost its relay takes up to five seconds to try again.
    with serving_group(3, "--grace-seconds=30") as made:
        yield made


@pytest.fixture(scope="module")
def calls(group: Group) -> Iterator[Voices]:
    with voices(group, CALLS) as made:
        made.assert_well()
        wait_for(lambda: all_know(group, CALLS), "all relays know all calls", 30)
        yield made


def all_know(group: Group, calls: int) -> bool:
    """Whether relays know the same number of flows: of each call one, or more if a client tries several."""
    flows = {member.live_flows() for member in group.members}
    return len(flows) == 1 and flows.pop() >= calls


@pytest.fixture
def relay(calls: Voices) -> Member:
    """The one that it happens to: most transceivers are attached to it."""
    return calls.busiest()


Happens = Callable[[Talk], None]


@pytest.fixture
def under(calls: Voices, record_property: Record) -> Callable[[str, Happens], Gaps]:
    """Lets something happen under all calls; every one of them has to go on."""

    def play(what: str, happens: Happens) -> Gaps:
        with calls.heard() as hearing:
            pause()
            happens(pause)
        gaps = gaps_of(hearing, calls.clients_of_aiortc())
        print(f"{what}:\n{gaps}")
        record_property(what, json.dumps(gaps.figures()))
        assert len(hearing.calls) == CALLS
        assert gaps.repeated == 0
        calls.assert_well()
        return gaps

    return play


Under = Callable[[str, Happens], Gaps]


def test_nothing_happens(under: Under) -> None:
    """What the others are to be compared with."""
    assert under("nothing", lambda talk: talk()).lost == 0


def test_a_frozen_daemon(group: Group, relay: Member, under: Under) -> None:
    assert under("frozen, and back", lambda talk: freeze(group, relay, talk)).lost == 0


def test_cut_off_from_the_store(group: Group, relay: Member, under: Under) -> None:
    def happens(talk: Talk) -> None:
        lose_store(group, relay, talk)
        find_store(group, relay, talk)

    assert under("cut off from Redis, and back", happens).lost == 0


def test_cut_off_from_clients(group: Group, relay: Member, under: Under) -> None:
    gaps = under("cut off from clients", lambda talk: cut(group, relay, OUTER, talk))
    assert gaps.p99 <= MOST_SECONDS
    under("and back", lambda talk: mend(group, relay, OUTER, talk))


def test_a_daemon_is_restarted(group: Group, relay: Member, under: Under) -> None:
    assert under("restarted", lambda talk: restart(group, relay, talk)).lost == 0


def test_a_planned_end(group: Group, relay: Member, under: Under) -> None:
    """`earshot drain --handover`, then the router is told, and the host goes."""
    assert under("handed over, and ended", lambda talk: hand_over(group, relay, talk)).lost == 0
    assert under("and back", lambda talk: take_back(group, relay, talk)).lost == 0


def test_a_dead_host(group: Group, relay: Member, under: Under) -> None:
    """Links down and daemon killed. Its transceivers attach elsewhere."""
    gaps = under("dead", lambda talk: die(group, relay, talk))
    assert gaps.p99 <= MOST_SECONDS
    assert under("and back", lambda talk: come_back(group, relay, talk)).lost == 0


def test_a_host_starts_anew(group: Group, relay: Member, under: Under) -> None:
    """It has lost its maps, and gets them from the others."""
    gaps = under("dead, with its maps", lambda talk: die(group, relay, talk))
    assert gaps.p99 <= MOST_SECONDS
    assert under("started anew", lambda talk: start_anew(group, relay, talk)).lost == 0
