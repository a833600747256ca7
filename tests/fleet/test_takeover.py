# SPDX-License-Identifier: Apache-2.0
"""A relay of a group dies, freezes, is cut off, comes back: what becomes of calls, packet by packet.

Calls go on in every case. How long they are silent is measured and reported (docs/fleet.md), not asserted.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fleet.events import (
    Record,
    assert_well,
    come_back,
    die,
    freeze,
    hand_over,
    report,
    rounds,
    start_anew,
    take_back,
)
from tests.lab.crowd import Crowd
from tests.lab.group import Group
from tests.lab.traffic import Traffic

pytestmark = [pytest.mark.root, pytest.mark.netns]


@pytest.fixture(scope="module")
def traffic(group: Group, crowd: Crowd) -> Iterator[Traffic]:
    with group.talking(crowd) as made:
        yield made


def test_a_frozen_daemon(group: Group, traffic: Traffic, record_property: Record) -> None:
    """Its host forwards what it has; another one answers for its addresses meanwhile. Nobody hears of it."""
    with traffic.flowing() as phase:
        freeze(group, group.members[0], rounds(traffic, 10))
    report(phase, record_property, "frozen, and back")
    assert phase.is_whole(), phase


def test_a_dead_host(group: Group, traffic: Traffic, record_property: Record) -> None:
    """Its links are down and its daemon is gone: calls are silent until another relay has its addresses."""
    first = group.members[0]
    with traffic.flowing() as phase:
        traffic.wait_for_rounds(10)
        die(group, first, rounds(traffic, 25))
    report(phase, record_property, "dead")
    assert_well(traffic)
    with traffic.flowing() as phase:
        come_back(group, first, rounds(traffic, 10))
    report(phase, record_property, "and back")
    assert_well(traffic)


def test_a_host_starts_anew(group: Group, traffic: Traffic, record_property: Record) -> None:
    """All that it knew is gone. Who follows its health sends it packets when it has all of that again."""
    first = group.members[0]
    owned = first.owns()
    with traffic.flowing() as phase:
        die(group, first, rounds(traffic, 10))
    report(phase, record_property, "dead")
    with traffic.flowing() as phase:
        start_anew(group, first, rounds(traffic, 10))
    report(phase, record_property, "started anew")
    assert first.owns() == owned
    assert phase.is_whole(), phase
    assert_well(traffic)


def test_a_planned_end(group: Group, traffic: Traffic, record_property: Record) -> None:
    """`earshot drain --handover`, then the host goes, and comes back: nobody hears of it."""
    first = group.members[0]
    for happens, what in ((hand_over, "handed over, and ended"), (take_back, "and back")):
        with traffic.flowing() as phase:
            happens(group, first, rounds(traffic, 10))
        report(phase, record_property, what)
        assert phase.is_whole(), phase
