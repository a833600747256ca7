# SPDX-License-Identifier: Apache-2.0
"""Ports and tables that are full refuse new calls, with a reason, and hurt none that there is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from control.cli.options import pinned_maps
from control.requests import Code
from tests.lab.calls import binding_request, wait_for
from tests.lab.crowd import CALLS
from tests.lab.topology import IPV4, VIP_PORT
from tests.netns.raw_stream import remove
from tests.netns.test_metrics import PORT, scrape
from tests.reliability.stage import Record, Stage, assert_whole, set_up

pytestmark = [pytest.mark.root, pytest.mark.netns]

# Half of the calls are of each family, and fill its relay ports to the last one.
FLAGS = (
    f"--relay-ports=10000-{10000 + CALLS // 2 - 1}",
    f"--max-sessions={CALLS + 1}",
    f"--metrics-listen=127.0.0.1:{PORT}",
)


@pytest.fixture(scope="module")
def full() -> Iterator[Stage]:
    with set_up(*FLAGS) as made:
        yield made


def test_new_calls_are_refused_and_old_ones_live_on(full: Stage, record_property: Record) -> None:
    new, none_left = full.crowd.another(), full.crowd.another()
    with full.client() as relay, full.attached() as attachment, full.flowing(record_property) as phase:
        full.traffic.wait_for_rounds(5)
        assert attachment.add_session(new.session).code == 0
        before = relay.counters()["drop_flows_full"]
        with full.site.client.socket(2) as client:
            for _ in range(20):
                client.sendto(binding_request(new.ufrag), (IPV4.vip, VIP_PORT))
        wait_for(lambda: relay.counters()["drop_flows_full"] >= before + 16, "its requests are refused")
        refused = attachment.add_session(none_left.session)
        assert (refused.code, refused.field) == (Code.RESOURCE_EXHAUSTED, "credentials")
        full.traffic.wait_for_rounds(5)
    assert_whole(phase)
    # A record of the flow table is a port of a relay address: both are full at once.
    with pinned_maps(full.lab.pins) as datapath:
        assert len(datapath.flows) == CALLS
    assert full.live_flows() == CALLS


def test_an_alarm_comes_before(full: Stage) -> None:
    with full.attached() as attachment:
        values = scrape(full.site)
        for table in ("flows_ipv4", "flows_ipv6"):
            assert values["earshot_table_occupancy_ratio", table] == 1
            wait_for(lambda table=table: f"event=table_filling table={table}" in full.log(), "it is said", 10)
        assert values["earshot_table_occupancy_ratio", "hops"] < 0.1
        half = [remove(member.session.session_id) for member in full.crowd.members[: CALLS // 2]]
        assert not any(result.code for result in attachment.batch(*half))
        wait_for(lambda: "event=table_relieved table=flows_ipv4" in full.log(), "it is said", 10)
        assert scrape(full.site)["earshot_table_occupancy_ratio", "flows_ipv4"] == 0.5
    assert full.log().count("event=table_filling table=flows_ipv4") == 1
