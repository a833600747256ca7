# SPDX-License-Identifier: Apache-2.0
"""Relays of a group forward each other's flows: packets are counted while the router changes its mind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.crowd import Crowd
from tests.lab.group import Group, group_of
from tests.lab.relay_client import RelayClient

pytestmark = [pytest.mark.root, pytest.mark.netns]

CALLS = 60


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    """Two relays that serve, for all tests of this module, in their order."""
    with group_of(2) as made:
        made.start()
        yield made
        for member in made.members:
            print(member.log()[-4000:])


@pytest.fixture(scope="module")
def crowd(group: Group) -> Iterator[Crowd]:
    """Calls that are bound at both relays, and that both know."""
    made = Crowd(group.site, CALLS)
    with group.registered(made):
        made.bind()
        group.wait_for_flows(CALLS)
        yield made


def test_any_relay_takes_any_packet(group: Group, crowd: Crowd) -> None:
    """The router moves all clients to one relay, then to the other: all packets arrive, and look the same."""
    first, second = group.members
    assert first.owns() > 0
    assert second.owns() > 0
    assert first.owns() + second.owns() == CALLS
    with group.talking(crowd) as traffic, traffic.flowing() as phase:
        traffic.wait_for_rounds(10)
        for turn in (first,), (second,), (first, second):
            group.spread(*turn)
            traffic.wait_for_rounds(10)
    assert phase.is_whole(), phase


def test_the_store_goes_and_comes_back_empty(group: Group, crowd: Crowd) -> None:
    """Calls go on meanwhile, and what was bound meanwhile is told then."""
    first, second = group.members
    more = Crowd(group.site, 6, media_port=41000, client_port=30000)
    with group.registered(more, name="more"):
        with group.talking(crowd) as traffic, traffic.flowing() as phase:
            group.redis.kill()
            group.spread(second)
            traffic.wait_for_rounds(10)
            more.bind()
            traffic.wait_for_rounds(10)
            assert (first.live_flows(), second.live_flows()) == (CALLS, CALLS + 6)
            group.redis.start()
            group.wait_for_flows(CALLS + 6, first)
        assert phase.is_whole(), phase
        # And as before, from now on: what ends at one is told, though the other has its session still.
        with RelayClient(f"unix:{second.socket}") as client, client.attach("more") as attachment:
            more.register(attachment, *more.members[:2])
            group.wait_for_flows(CALLS + 2)
    group.spread(first, second)
