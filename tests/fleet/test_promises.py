# SPDX-License-Identifier: Apache-2.0
"""Relays that answer for each other while the store is away: who binds, and who takes whose addresses.

That new calls are bound meanwhile is in test_replication.py; what else may happen, in the unit tests.
"""

from __future__ import annotations

import signal

import pytest

from tests.fleet.conftest import GROUP_CALLS as CALLS
from tests.fleet.events import count, taken_over, wait_for_return
from tests.lab.calls import SOCKET_FAMILY, binding_request, wait_for
from tests.lab.crowd import Crowd
from tests.lab.group import Group, Member
from tests.lab.relay_client import RelayClient
from tests.lab.topology import VIP_PORT

pytestmark = [pytest.mark.root, pytest.mark.netns]


def test_a_relay_dies_while_the_store_is_away(group: Group, crowd: Crowd) -> None:
    """The other one is promised nothing any more, and binds nothing new; nor does it take what it cannot know
    to be free. When the store is back, it does; and when the relay is back, each promises again."""
    first, second = group.members
    held, taken = count([first], "relay_addresses_held"), count([second], "relay_address_taken")
    expired = second.log().count("event=relay_addresses_lease_expired")
    more = Crowd(group.site, 2, media_port=43000, client_port=33000)
    with group.registered(more, "late"):
        with group.talking(crowd) as traffic, traffic.flowing() as phase:
            group.redis.kill()
            first.end(signal.SIGKILL)
            group.spread(second)
            wait_for(
                lambda: second.log().count("event=relay_addresses_lease_expired") > expired, "no lease", 20
            )
            refused = _refused(second)
            _ask(group, more)
            wait_for(lambda: _refused(second) > refused, "a new call is refused", 20)
            assert count([second], "relay_address_taken") == taken
            with taken_over([second]):
                group.redis.start()
            traffic.wait_for_rounds(10)
            first.start()
            wait_for_return(group, first, held)
            group.redis.kill()
            wait_for(lambda: _is_bound(group, second, more), "a new call is bound", 20)
            group.redis.start()
        assert phase.is_whole(), phase
    group.spread(first, second)
    group.wait_for_flows(CALLS)


def _refused(member: Member) -> int:
    """New flows, for want of a lease."""
    with RelayClient(f"unix:{member.socket}") as client:
        return client.counters()["drop_lease_expired"]


def _is_bound(group: Group, member: Member, crowd: Crowd) -> bool:
    """Whether it is, now or before."""
    _ask(group, crowd)
    return member.live_flows() > CALLS


def _ask(group: Group, crowd: Crowd) -> None:
    """The first of its clients, once."""
    member = crowd.members[0]
    with group.site.client.socket(SOCKET_FAMILY[member.family]) as client:
        client.bind(member.client)
        client.sendto(binding_request(member.ufrag), (group.site.addresses[member.family].vip, VIP_PORT))
