# SPDX-License-Identifier: Apache-2.0
"""Relays of a group forward each other's flows: packets are counted while the router changes its mind."""

from __future__ import annotations

import pytest

from control.directory.seal import Sealer
from fleet.key import FleetKey
from tests.fleet.conftest import GROUP_CALLS as CALLS
from tests.lab.calls import SOCKET_FAMILY, binding_request, wait_for
from tests.lab.crowd import Crowd
from tests.lab.group import Group, Member
from tests.lab.relay_client import RelayClient
from tests.lab.topology import VIP_PORT

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
    with group.registered(more, "more") as attachment:
        with group.talking(crowd) as traffic, traffic.flowing() as phase:
            group.redis.kill()
            group.spread(second)
            traffic.wait_for_rounds(50)
            refused = _refused(second)
            _ask(group, more)
            wait_for(lambda: _refused(second) > refused, "a request is refused")
            assert (first.live_flows(), second.live_flows()) == (CALLS, CALLS)
            group.redis.start()
            wait_for(
                lambda: "event=directory_up" in second.log().rpartition("event=directory_away")[2], "Redis"
            )
            more.bind()
            group.wait_for_flows(CALLS + 6)
        assert phase.is_whole(), phase
        # And as before, from now on.
        more.register(attachment, *more.members[:2])
        group.wait_for_flows(CALLS + 2)
    group.spread(first, second)


def _ask(group: Group, crowd: Crowd) -> None:
    """The first of its clients, once."""
    member = crowd.members[0]
    with group.site.client.socket(SOCKET_FAMILY[member.family]) as client:
        client.bind(member.client)
        client.sendto(binding_request(member.ufrag), (group.site.addresses[member.family].vip, VIP_PORT))


def _refused(member: Member) -> int:
    with RelayClient(f"unix:{member.socket}") as client:
        return client.counters()["drop_lease_expired"]


def _has_directory(member: Member) -> bool:
    return "event=directory_up" in member.log().rpartition("event=directory_away")[2]


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
