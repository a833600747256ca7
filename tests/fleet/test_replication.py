# SPDX-License-Identifier: Apache-2.0
"""Relays of a group forward each other's flows: packets are counted while the router changes its mind."""

from __future__ import annotations

import pytest

from control.directory.seal import Sealer
from fleet.key import FleetKey
from tests.fleet.conftest import GROUP_CALLS as CALLS
from tests.lab.calls import wait_for
from tests.lab.crowd import Crowd
from tests.lab.group import Group

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
    """Calls go on meanwhile, and new ones are taken by every relay; the others are told of them later."""
    first, second = group.members
    crowds = [Crowd(group.site, 6, media_port=41000 + n, client_port=30000 + 10 * n) for n in range(2)]
    with group.registered(crowds[0], "more") as attachment, group.registered(crowds[1], "yet-more"):
        with group.talking(crowd) as traffic, traffic.flowing() as phase:
            group.redis.kill()
            for number, (member, more) in enumerate(zip((first, second), crowds, strict=True)):
                group.spread(member)
                traffic.wait_for_rounds(50)  # longer than any lease
                more.bind()
                assert member.live_flows() == CALLS + 6
                assert group.members[1 - number].live_flows() == CALLS + 6 * number
            group.redis.start()
            group.wait_for_flows(CALLS + 12)
        assert phase.is_whole(), phase
        # And as before, from now on.
        crowds[0].register(attachment, *crowds[0].members[:2])
        group.wait_for_flows(CALLS + 8)
    group.wait_for_flows(CALLS)
    group.spread(first, second)


def test_what_cannot_be_believed_changes_nothing(group: Group, crowd: Crowd) -> None:
    """Of nobody, of another fleet or version, for another stream, said before: refused, and calls go on."""
    strangers = [Sealer({number: FleetKey.of(bytes(32))}) for number in (1, 9)]
    stream = b"earshot:flows"
    with group.store() as store:
        said = [fields[b"m"] for _, fields in store.xrevrange(stream, count=20)]
        others = [fields[b"m"] for _, fields in store.xrevrange("earshot:sessions", count=1)]
        junk = [b"", b"\x63" + bytes(80), *(one.seal(stream, b"{}") for one in strangers)]
        for message in (*junk, *others, *said):
            store.xadd(stream, {b"m": message})
        store.xadd(stream, {b"other": b"field"})
    assert said
    assert others
    whys = {"malformed", "version", "key", "forged", "replayed"}
    for member in group.members:
        wait_for(lambda member=member: all(f" why={why} " in member.log() for why in whys), "refusals")  # type: ignore[misc]
    with group.talking(crowd) as traffic, traffic.flowing() as phase:
        traffic.wait_for_rounds(10)
    assert phase.is_whole(), phase
