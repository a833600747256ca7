# SPDX-License-Identifier: Apache-2.0
"""What takes longer of a group of relays: scripts/nightly runs it (EARSHOT_FLEET_LONG)."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.lab.calls import wait_for
from tests.lab.crowd import Crowd
from tests.lab.group import Group, Member, group_of
from tests.lab.relay_client import RelayClient
from tests.lab.traffic import UP

pytestmark = [pytest.mark.root, pytest.mark.netns]

CALLS = 60


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    with group_of(2) as made:
        made.start()
        yield made


@pytest.fixture(scope="module")
def crowd(group: Group) -> Iterator[Crowd]:
    """Calls that are bound at both relays, and that both know."""
    made = Crowd(group.site, CALLS)
    with group.registered(made):
        made.bind()
        group.wait_for_flows(CALLS)
        yield made


def test_a_relay_comes_late(group: Group, crowd: Crowd) -> None:
    """It is told of everything there is, and of what has ended while it was away."""
    first, second = group.members
    more = Crowd(group.site, 10, media_port=42000, client_port=31000)
    with group.registered(crowd):
        wait_for(lambda: first.live_flows() == second.live_flows() == CALLS, "what was there has ended", 45)
        second.end(signal.SIGKILL)
        group.spread(first)
        leaving = next(
            member
            for member, end in zip(crowd.members, crowd.relay_ends, strict=True)
            if end[0] in first.addresses
        )
        staying = [member for member in crowd.members if member is not leaving]
        with (
            RelayClient(f"unix:{first.socket}") as client,
            client.attach("crowd") as attachment,
            group.registered(more, first, name="late"),
        ):
            crowd.register(attachment, *staying)
            more.bind()
            group.wait_for_flows(CALLS + 9, first)
            assert second.live_flows() == CALLS
            second.start()
            with group.registered(more, second, name="late"):
                group.wait_for_flows(CALLS + 9, second)
    group.spread(first, second)


def test_silence_is_what_all_relays_hear(group: Group, crowd: Crowd) -> None:
    """A flow whose packets all pass another relay than its own lives; without any, it ends everywhere."""
    first, second = group.members
    for member in group.members:
        member.end(signal.SIGTERM)
    group.start("--flow-idle-seconds=2")
    with group.registered(crowd):
        crowd.bind()
        group.spread(first)
        with group.talking(crowd) as traffic, traffic.flowing(UP) as phase:
            wait_for(lambda: first.live_flows() == second.live_flows() >= CALLS, "both know all", 20)
            owned = _owned(first, second)
            assert min(owned) > 0
            traffic.wait_for_rounds(250)
            assert _owned(first, second) == owned
        assert phase.is_whole(UP), phase
        group.wait_for_flows(0)


def _owned(*members: Member) -> list[int]:
    return [member.owns() for member in members]
