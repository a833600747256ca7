# SPDX-License-Identifier: Apache-2.0
"""ICE restarts of real calls, onto other ports, through the XDP relay."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.lab.calls import wait_for
from tests.lab.netns import Lab
from tests.lab.relay_client import RelayClient
from tests.lab.services import relay_target, start_calls, start_relay, start_transceiver
from tests.lab.topology import two_armed

pytestmark = [pytest.mark.root, pytest.mark.netns, pytest.mark.e2e]

CALLS = 2


@pytest.mark.parametrize("family", [4, pytest.param(6, marks=pytest.mark.nightly)], ids=["v4", "v6"])
def test_calls_go_on_while_their_ice_restarts(
    family: int, record_property: Callable[[str, object], None]
) -> None:
    with Lab() as lab:
        site = two_armed(lab)
        start_relay(site)
        start_transceiver(site, [family])
        result = lab.dir / "calls.json"
        with RelayClient(relay_target(site)) as relay:
            caller = start_calls(site, CALLS, 4, result, "--restart-ice")

            def ufrags() -> dict[str, list[str]]:
                return {session.session_id: list(session.ufrags) for session in relay.sessions()}

            wait_for(lambda: len(ufrags()) == CALLS, "the sessions", timeout=30)
            before = ufrags()

            def renewed() -> bool:
                now = ufrags()
                return all(now[name] and not set(now[name]) & set(before[name]) for name in before)

            wait_for(renewed, "new credentials alone", timeout=20)
            assert {flow.session_id for flow in relay.flows()} == set(before)
        caller.wait(40)
        calls = json.loads(result.read_text())["calls"]
        record_property("restart_gap_ms", [call["widest_gap_ms"] for call in calls])
        for call in calls:
            assert call["audio_verified"], call
            assert call["data_channel_verified"], call
            assert call["error"] is None
        assert site.stack_packets() == 0
        assert site.signalling_udp_packets() == 0
