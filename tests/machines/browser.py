# SPDX-License-Identifier: Apache-2.0
"""A call from Chromium to the page that the emulated transceiver serves, through the emulated relay.

Chromium itself is not emulated (it takes longer to start there than a call may take to be set up): it has
addresses on the machines' networks, as a laptop beside them would.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from playwright.sync_api import Error, Page, sync_playwright

from tests.lab.browser import chromium, open_page
from tests.lab.host import LabError
from tests.machines.networks import visit

ORIGIN = "http://192.0.2.30:8080"
ADDRESS = "198.51.100.11"  # which the relay sees; nobody's in vagrant/site.json
TIMEOUT = 120.0  # seconds: an emulated transceiver sets up the call
_LINKS = {"clients": ADDRESS, "signalling": "192.0.2.11"}
_STATE = "() => globalThis.earshot?.call?.peer?.connectionState ?? 'none'"
_RECEIVED = """async () => [...(await earshot.call.peer.getStats()).values()]
    .filter((entry) => entry.type === "inbound-rtp").reduce((sum, entry) => sum + entry.packetsReceived, 0)"""
ENOUGH = 50  # packets that have come back, before anybody looks


class BrowserCall:
    """A call that goes on.

    Attributes:
        figures: version of the browser; seconds until the page was there, and the call connected.
    """

    def __init__(self, page: Page, figures: dict[str, Any]) -> None:
        self._page = page
        self.figures = figures

    def received(self) -> int:
        """Packets of the agent's sound that have come so far."""
        return int(self._page.evaluate(_RECEIVED))

    def wait_for_more(self) -> None:
        """Until it has got more sound. Raises `LabError` if it does not."""
        before = self.received()
        _wait(lambda: self.received() >= before + ENOUGH, "the agent's sound arrives")


@contextlib.contextmanager
def calling(folder: Path) -> Iterator[BrowserCall]:
    """Opens the page, presses Call, waits for sound; hangs up at the end, and leaves page.png in `folder`."""
    with contextlib.ExitStack() as stack:
        for network, address in _LINKS.items():
            stack.enter_context(visit(network, address))
        scratch = Path(stack.enter_context(TemporaryDirectory()))
        try:
            playwright = stack.enter_context(sync_playwright())
            browser = stack.enter_context(chromium(playwright, None, scratch, origin=ORIGIN))
            opened = time.monotonic()
            page = stack.enter_context(open_page(browser, f"{ORIGIN}/", timeout=TIMEOUT * 1000))
            pressed = time.monotonic()
            page.get_by_role("button", name="Call").click()
            _wait(lambda: bool(page.evaluate(_STATE) == "connected"), "the call is connected")
            figures = {
                "version": browser.version,
                "page_seconds": round(pressed - opened, 1),
                "connected_seconds": round(time.monotonic() - pressed, 1),
            }
            call = BrowserCall(page, figures)
            _wait(lambda: call.received() >= ENOUGH, "the agent's sound arrives")
            yield call
            figures["packets_received"] = call.received()
            page.screenshot(path=str(folder / "page.png"))
            page.get_by_role("button", name="Hang up").click()
        except Error as error:
            raise LabError(f"the browser's call: {error}") from error


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"not within {TIMEOUT:.0f} s: {what}")
        time.sleep(0.5)
