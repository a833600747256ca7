# SPDX-License-Identifier: Apache-2.0
"""The picture of the page that the README shows: a call to the agent, by Chromium, through the XDP relay.

    python -m tests.lab.picture docs/images/page.png

Needs root, chromium and espeak-ng.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from playwright.sync_api import expect, sync_playwright

from tests.lab.browser import TIMEOUT, chromium, open_page, write_wav
from tests.lab.netns import Lab
from tests.lab.services import start_agent, start_relay, start_transceiver, whip_url
from tests.lab.speech import silence, spoken
from tests.lab.topology import two_armed


def main() -> int:
    target = Path(sys.argv[1])
    with Lab() as lab, sync_playwright() as playwright:
        site = two_armed(lab)
        start_relay(site)
        start_transceiver(site, [4], f"--backend={start_agent(site)}", "--max-load=1")
        origin = whip_url().removesuffix("/whip")
        # A question over the greeting, and then an interruption of the answer.
        sound = np.concatenate([silence(3), spoken("tell me a story"), silence(60)])
        wav = write_wav(lab.dir / "microphone.wav", sound)
        with (
            chromium(playwright, site.client, lab.dir, origin=origin, wav=wav) as browser,
            open_page(browser, origin, viewport={"width": 1000, "height": 700}, color_scheme="light") as page,
        ):
            page.get_by_role("button", name="Call").click()
            expect(page.get_by_role("log")).to_contain_text("A packet came to a relay", timeout=TIMEOUT)
            page.wait_for_timeout(15_000)  # of a story, and of graphs
            page.get_by_label("Type instead of talking").fill("what time is it")
            page.get_by_label("Type instead of talking").press("Enter")
            expect(page.get_by_role("log")).to_contain_text("It is", timeout=TIMEOUT)
            page.wait_for_timeout(1000)
            page.screenshot(path=target, full_page=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
