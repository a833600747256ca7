# SPDX-License-Identifier: Apache-2.0
"""A client that sends what it should not, as fast as it can, beside a call that must not miss anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab.calls import wait_for
from tests.lab.resident import growth
from tests.lab.services import start_calls, start_transceiver, whip_url
from tests.lab.topology import HTTP_PORT, SIGNALLING_TRANSCEIVER, Site

pytestmark = [pytest.mark.root, pytest.mark.netns, pytest.mark.e2e]

RUDE = Path(__file__).parents[1] / "clients" / "rude.mjs"
PORT = HTTP_PORT + 5
MESSAGES, BYTES = 30_000, 10_000_000
SECONDS = 5  # of the call beside it
MEMORY = 8 << 20  # bytes that all of it may cost for a while; the one message alone is longer
WHOLE = 0.9  # correlation of a sound of which nothing is missing; coding takes a little of it


def test_a_flood_of_messages_and_one_of_10_mb_beside_a_call(
    site: Site, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    transceiver = start_transceiver(
        site, [4], "--name=rude", f"--http={SIGNALLING_TRANSCEIVER}:{PORT}", "--max-load=1"
    )
    heard = tmp_path / "calls.json"
    log = site.lab.log("earshot-transceiver")
    before = log.stat().st_size  # all transceivers of the site write there
    caller = start_calls(site, 1, SECONDS, heard, port=PORT)
    wait_for(lambda: b"event=call_connected" in log.read_bytes()[before:], "the call beside it", timeout=30)
    with growth(transceiver.pid) as memory:
        rude = json.loads(
            site.client.run("node", str(RUDE), whip_url(PORT), str(MESSAGES), str(BYTES), timeout=100)
        )
        record_property("rude", json.dumps(rude))
        assert caller.wait(60) == 0, heard.read_text()
    record_property("memory_mib", round(memory.bytes / (1 << 20), 1))
    assert rude["connected"], rude
    assert rude["sent"] == MESSAGES
    answers = rude["answers"]
    assert answers["error too_many"] >= 1
    assert answers["error too_long"] == 1
    assert answers["echo"] < MESSAGES / 10
    assert rude["deleted"] == 200
    assert memory.bytes < MEMORY
    (call,) = json.loads(heard.read_text())["calls"]
    assert call["widest_gap_ms"] == 0, call
    assert call["correlation"] > WHOLE, call
