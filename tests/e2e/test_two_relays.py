# SPDX-License-Identifier: Apache-2.0
"""Calls by two relays of two regions, a transceiver attached to both: by the nearest, or the other."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.lab.browser import TIMEOUT, chromium, open_page, statistics
from tests.lab.calls import wait_for
from tests.lab.netns import Lab
from tests.lab.relay_client import RelayClient
from tests.lab.services import start_calls_at, whip_url
from tests.lab.topology import HTTP_PORT, SIGNALLING_CLIENT, SIGNALLING_TRANSCEIVER
from tests.lab.two_relays import Pair, start_relay, start_transceiver, two_relays

pytestmark = [pytest.mark.root, pytest.mark.netns, pytest.mark.e2e]

AWAY_PORT = HTTP_PORT + 1
REGIONS = f"""
default = "eu"
[networks]
"{SIGNALLING_CLIENT}/32" = "us"
[regions.eu]
[regions.us]
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two transceivers: of the region eu, and one for which all clients are in us and have no other way."""
    file = tmp_path_factory.mktemp("regions") / "regions.toml"
    file.write_text(REGIONS)
    with Lab() as lab:
        made = two_relays(lab)
        for relay in made.relays:
            start_relay(made, relay)
        start_transceiver(made, "near", "--region=eu")
        start_transceiver(made, "far", f"--regions-file={file}", "--candidates=1", port=AWAY_PORT)
        yield made


@pytest.fixture(scope="module")
def relays(pair: Pair) -> Iterator[list[RelayClient]]:
    with ExitStack() as stack:
        made = [stack.enter_context(RelayClient(relay.target)) for relay in pair.relays]
        wait_for(
            lambda: all(len(relay.transceivers()) == 2 for relay in made), "all attached to both", timeout=30
        )
        yield made


def call(pair: Pair, port: int, result: Path, seconds: int = 2) -> dict[str, Any]:
    """A call of aiortc; what became of it."""
    calling = start_calls_at(pair.lab, pair.client, whip_url(port), 1, seconds, result)
    calling.wait(90)
    (outcome,) = json.loads(result.read_text())["calls"]
    return dict(outcome)


def media(relays: list[RelayClient]) -> list[int]:
    """Packets that each relay has brought to clients since it was started."""
    return [relay.counters()["forward_to_client"] for relay in relays]


def test_media_takes_the_nearest_and_both_know_the_call(
    pair: Pair, relays: list[RelayClient], tmp_path: Path
) -> None:
    before = media(relays)
    outcome = call(pair, HTTP_PORT, tmp_path / "result")
    assert outcome["error"] is None
    assert outcome["audio_verified"]
    assert outcome["data_channel_verified"]
    near, far = (after - earlier for earlier, after in zip(before, media(relays), strict=True))
    assert near > 80, "two seconds of sound"
    assert far < near / 4, "checks alone"
    assert [relay.sessions() for relay in relays] == [[], []]


def test_it_takes_the_other_where_the_nearest_cannot_be_reached(
    pair: Pair, relays: list[RelayClient], tmp_path: Path
) -> None:
    before = media(relays)
    pair.cut(pair.relays[0])
    try:
        outcome = call(pair, HTTP_PORT, tmp_path / "result")
    finally:
        pair.mend()
    assert outcome["error"] is None
    assert outcome["audio_verified"]
    assert outcome["data_channel_verified"]
    near, far = (after - earlier for earlier, after in zip(before, media(relays), strict=True))
    assert (near, far > 80) == (0, True)


def test_an_ingress_forwards_to_an_owner_in_another_region(
    pair: Pair, relays: list[RelayClient], tmp_path: Path
) -> None:
    """The transceiver is where the first relay is; clients are placed where the second one is."""
    before = media(relays)
    outcome = call(pair, AWAY_PORT, tmp_path / "result")
    assert outcome["error"] is None
    assert outcome["audio_verified"]
    assert outcome["data_channel_verified"]
    near, far = (after - earlier for earlier, after in zip(before, media(relays), strict=True))
    assert (near, far > 80) == (0, True)


def test_a_call_of_chromium_goes_on_by_the_other_when_its_path_is_cut(
    pair: Pair, relays: list[RelayClient], tmp_path: Path
) -> None:
    origin = f"http://{SIGNALLING_TRANSCEIVER}:{HTTP_PORT}"
    with (
        sync_playwright() as playwright,
        chromium(playwright, pair.client, tmp_path, origin=origin) as browser,
        open_page(browser, origin) as page,
    ):
        page.get_by_role("button", name="Call").click()
        expect(page.get_by_role("status")).to_have_text("In a call", timeout=TIMEOUT)

        def moved(relay: RelayClient, since: int) -> bool:
            return relay.counters()["forward_to_client"] > since + 50

        near, far = relays
        wait_for(lambda: moved(near, media(relays)[0] - 50), "media by the nearest", timeout=30)
        time.sleep(1)  # until it has settled on one
        pair.cut(pair.relays[0])
        try:
            since = media(relays)[1]
            wait_for(lambda: moved(far, since), "media by the other", timeout=60)
            received = statistics(page, "inbound-rtp")["packetsReceived"]
            wait_for(
                lambda: statistics(page, "inbound-rtp")["packetsReceived"] > received + 50,
                "sound",
                timeout=30,
            )
            expect(page.get_by_role("status")).to_have_text("In a call", timeout=TIMEOUT)
        finally:
            pair.mend()
        page.get_by_role("button", name="Hang up").click()
        wait_for(lambda: not near.sessions() and not far.sessions(), "the session removed", timeout=10)
