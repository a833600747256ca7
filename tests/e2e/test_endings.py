# SPDX-License-Identifier: Apache-2.0
"""How real calls end when nobody hangs up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.calls import wait_for
from tests.lab.netns import Lab
from tests.lab.relay_client import RelayClient
from tests.lab.services import relay_target, start_calls, start_relay, start_transceiver
from tests.lab.topology import Site, two_armed

pytestmark = [pytest.mark.root, pytest.mark.netns, pytest.mark.e2e]

CALLS = 2


@pytest.fixture
def site() -> Iterator[Site]:
    """A relay and a transceiver with both families, the latter quick to give a client up."""
    with Lab() as lab:
        made = two_armed(lab)
        start_relay(made)
        start_transceiver(made, [4, 6], "--silence-timeout=2")
        yield made


@pytest.fixture
def relay(site: Site) -> Iterator[RelayClient]:
    with RelayClient(relay_target(site)) as client:
        yield client


def test_clients_that_vanish_are_cleaned_up(site: Site, relay: RelayClient) -> None:
    caller = start_calls(site, CALLS, 60, site.lab.dir / "calls.json")

    def calls_in_progress() -> int:
        talking = [flow for flow in relay.flows() if flow.to_client_packets > 20]
        return len({flow.session_id for flow in talking})

    wait_for(lambda: calls_in_progress() == CALLS, "all calls in progress", timeout=30)
    assert len(relay.sessions()) == CALLS
    caller.kill()
    caller.wait(5)
    wait_for(lambda: not relay.sessions(), "the sessions removed", timeout=30)
    wait_for(lambda: not relay.flows(), "the flows ended", timeout=10)
    assert site.stack_packets() == 0
