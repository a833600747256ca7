# SPDX-License-Identifier: Apache-2.0
"""A relay of a group dies, freezes, is cut off, comes back: what becomes of calls, packet by packet.

Calls go on in every case. How long they are silent is measured and reported (docs/fleet.md), not asserted.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.fleet.events import Record, assert_well, count, hand_over, report, taken_over, wait_for_return
from tests.lab.crowd import Crowd
from tests.lab.group import INNER, OUTER, STORE, Group
from tests.lab.traffic import Traffic

pytestmark = [pytest.mark.root, pytest.mark.netns]


@pytest.fixture(scope="module")
def traffic(group: Group, crowd: Crowd) -> Iterator[Traffic]:
    with group.talking(crowd) as made:
        yield made


def test_a_frozen_daemon(group: Group, traffic: Traffic, record_property: Record) -> None:
    """Its host forwards what it has; another one answers for its addresses meanwhile. Nobody hears of it."""
    first, *others = group.members
    held = count([first], "relay_addresses_held")
    with traffic.flowing() as phase:
        try:
            with taken_over(others):
                first.tell(signal.SIGSTOP)
            traffic.wait_for_rounds(10)
        finally:
            first.tell(signal.SIGCONT)
        wait_for_return(group, first, held)
        traffic.wait_for_rounds(10)
    report(phase, record_property, "frozen, and back")
    assert phase.is_whole(), phase


def test_a_dead_host(group: Group, traffic: Traffic, record_property: Record) -> None:
    """Its links are down and its daemon is gone: calls are silent until another relay has its addresses."""
    first, *others = group.members
    held = count([first], "relay_addresses_held")
    with traffic.flowing() as phase:
        traffic.wait_for_rounds(10)
        with taken_over(others):
            first.tell(signal.SIGKILL)
            first.set_links("down", OUTER, INNER, STORE)
        traffic.wait_for_rounds(25)
    report(phase, record_property, "dead")
    assert_well(traffic)
    with traffic.flowing() as phase:
        first.set_links("up", OUTER, INNER, STORE)
        first.start()
        wait_for_return(group, first, held)
        traffic.wait_for_rounds(10)
    report(phase, record_property, "and back")
    assert_well(traffic)


def test_a_planned_end(group: Group, traffic: Traffic, record_property: Record) -> None:
    """`earshot drain --handover`, then the router is told, and the host goes: nobody hears of it."""
    first = group.members[0]
    with traffic.flowing() as phase:
        hand_over(group)
        first.end(signal.SIGTERM)
        first.set_links("down", OUTER, INNER, STORE)
        traffic.wait_for_rounds(10)
    report(phase, record_property, "handed over, and ended")
    assert phase.is_whole(), phase
