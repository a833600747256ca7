# SPDX-License-Identifier: Apache-2.0
"""Relays of a group forward each other's flows: packets are counted while the router changes its mind."""

from __future__ import annotations

import pytest

from tests.fleet.conftest import GROUP_CALLS as CALLS
from tests.lab.calls import wait_for
from tests.lab.crowd import Crowd
from tests.lab.group import Group, Member
from tests.lab.relay_client import RelayClient

pytestmark = [pytest.mark.root, pytest.mark.netns]


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
    """Calls go on meanwhile. New ones wait: who has no lease binds nothing that others would not know."""
    first, second = group.members
    more = Crowd(group.site, 6, media_port=41000, client_port=30000)
    with group.registered(more, name="more"):
        with group.talking(crowd) as traffic, traffic.flowing() as phase:
            group.redis.kill()
            group.spread(second)
            traffic.wait_for_rounds(50)
            refused = _refused(second)
            with pytest.raises((AssertionError, TimeoutError)):
                more.bind()
            assert _refused(second) > refused
            assert (first.live_flows(), second.live_flows()) == (CALLS, CALLS)
            group.redis.start()
            wait_for(
                lambda: "event=directory_up" in second.log().rpartition("event=directory_away")[2], "Redis"
            )
            more.bind()
            group.wait_for_flows(CALLS + 6)
        assert phase.is_whole(), phase
        # And as before, from now on: what ends at one is told, though the other has its session still.
        with RelayClient(f"unix:{second.socket}") as client, client.attach("more") as attachment:
            more.register(attachment, *more.members[:2])
            group.wait_for_flows(CALLS + 2)
    group.spread(first, second)


def _refused(member: Member) -> int:
    with RelayClient(f"unix:{member.socket}") as client:
        return client.counters()["drop_lease_expired"]


def _has_directory(member: Member) -> bool:
    return "event=directory_up" in member.log().rpartition("event=directory_away")[2]
