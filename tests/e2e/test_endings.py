# SPDX-License-Identifier: Apache-2.0
"""Real calls when one of those who take part is killed."""

from __future__ import annotations

import json
import os
import re
import signal
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
    """A site in which nothing runs yet."""
    with Lab() as lab:
        yield two_armed(lab)


def wait_for_calls(relay: RelayClient) -> None:
    """Returns when media has come back to the client in every call."""

    def talking() -> int:
        return len({flow.session_id for flow in relay.flows() if flow.to_client_packets > 20})

    wait_for(lambda: talking() == CALLS, "all calls in progress", timeout=30)


def test_clients_that_vanish_are_cleaned_up(site: Site) -> None:
    start_relay(site)
    start_transceiver(site, [4, 6], "--silence-timeout=2")
    with RelayClient(relay_target(site)) as relay:
        caller = start_calls(site, CALLS, 60, site.lab.dir / "calls.json")
        wait_for_calls(relay)
        assert len(relay.sessions()) == CALLS
        caller.kill()
        caller.wait(5)
        wait_for(lambda: not relay.sessions(), "the sessions removed", timeout=30)
        wait_for(lambda: not relay.flows(), "the flows ended", timeout=10)
    assert site.stack_packets() == 0


def test_calls_do_not_notice_that_the_daemon_is_killed(site: Site) -> None:
    daemon = start_relay(site)
    start_transceiver(site, [4, 6])
    result = site.lab.dir / "calls.json"
    with RelayClient(relay_target(site)) as relay:
        caller = start_calls(site, CALLS, 4, result)
        wait_for_calls(relay)
        daemon.kill()
        daemon.wait(5)
    caller.wait(30)
    for call in json.loads(result.read_text())["calls"]:
        assert call["audio_verified"], call
        assert call["data_channel_verified"], call
    assert site.stack_packets() == 0


@pytest.mark.nightly  # tests/unit/test_transceiver_workers.py asks the same without an XDP relay
def test_a_workers_death_takes_its_own_calls_and_no_other(site: Site) -> None:
    start_relay(site)
    start_transceiver(site, [4, 6], "--workers=2")
    result = site.lab.dir / "calls.json"
    with RelayClient(relay_target(site)) as relay:
        caller = start_calls(site, CALLS, 6, result)
        wait_for_calls(relay)
        assert {session.transceiver for session in relay.sessions()} == {"transceiver.0", "transceiver.1"}
        log = site.lab.log("earshot-transceiver").read_text()
        pids = dict(re.findall(r"event=worker_started number=(\d) pid=(\d+)", log))
        os.kill(int(pids["0"]), signal.SIGKILL)
        # Started again, it tells the relay that it has no sessions.
        wait_for(lambda: len(relay.sessions()) == 1, "the sessions removed", timeout=20)
    caller.wait(40)
    verified = [call["audio_verified"] for call in json.loads(result.read_text())["calls"]]
    assert sorted(verified) == [False, True]
    assert site.stack_packets() == 0
