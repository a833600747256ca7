# SPDX-License-Identifier: Apache-2.0
"""A call of Chromium by two relays, one of which cannot be reached any more."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.lab.browser import TIMEOUT, chromium, open_page, statistics
from tests.lab.calls import wait_for
from tests.lab.relay_client import RelayClient
from tests.lab.topology import HTTP_PORT, SIGNALLING_TRANSCEIVER
from tests.lab.two_relays import Pair, media

pytestmark = [pytest.mark.root, pytest.mark.netns, pytest.mark.e2e, pytest.mark.nightly]


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
