# SPDX-License-Identifier: Apache-2.0
"""The page behind a load balancer, while the transceivers of its call go away."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.lab.browser import TIMEOUT, chromium, open_page, statistics
from tests.lab.calls import wait_for
from tests.lab.relay_client import RelayClient
from tests.lab.services import relay_target, start, start_transceiver
from tests.lab.topology import HTTP_PORT, SIGNALLING_TRANSCEIVER, Site

pytestmark = [pytest.mark.root, pytest.mark.netns, pytest.mark.e2e, pytest.mark.nightly]

PORT = HTTP_PORT + 20
ORIGIN = f"http://{SIGNALLING_TRANSCEIVER}:{PORT}"
NAMES = ("move-1", "move-2", "move-3")
URLS = {name: f"http://{SIGNALLING_TRANSCEIVER}:{PORT + 1 + at}" for at, name in enumerate(NAMES)}
# Notes what the status says, and how all calls stand when one of them is closed.
WATCH = """
    const peers = [];
    window.endings = [];
    window.RTCPeerConnection = class extends RTCPeerConnection {
        constructor(...how) {
            super(...how);
            peers.push(this);
        }
        close() {
            const voice = document.getElementById("voice");
            const played = (peer) => peer.getReceivers().some(({ track }) =>
                voice.srcObject?.getTracks().includes(track) && !track.muted);
            endings.push({
                others: peers.filter((peer) => peer !== this).map((peer) => peer.connectionState),
                playing: voice.paused ? -1 : peers.findIndex(played),
            });
            super.close();
        }
    };
    window.said = [];
    addEventListener("DOMContentLoaded", () => {
        const status = document.getElementById("status");
        new MutationObserver(() => said.push(status.textContent)).observe(status, { childList: true });
    });
"""


@pytest.fixture(scope="module")
def fleet(site: Site) -> dict[str, subprocess.Popen[bytes]]:
    """Three transceivers behind a load balancer; each knows the others."""

    def started(name: str) -> subprocess.Popen[bytes]:
        peers = (f"--peer={other}={url}" for other, url in URLS.items() if other != name)
        flags = ("--max-load=1", "--drain-timeout=60", f"--http={URLS[name].removeprefix('http://')}")
        return start_transceiver(site, [4], f"--name={name}", *flags, *peers)

    made = {name: started(name) for name in NAMES}
    start(
        *(site.lab, site.transceiver, sys.executable, "-P", "-m", "tests.lab.balancer"),
        f"--listen={SIGNALLING_TRANSCEIVER}:{PORT}",
        *(f"--to={url}" for url in URLS.values()),
    )
    return made


@pytest.fixture(scope="module")
def browser(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    folder = tmp_path_factory.mktemp("browser")
    with sync_playwright() as playwright, chromium(playwright, site.client, folder, origin=ORIGIN) as made:
        yield made


def works(page: Page, word: str) -> None:
    """Sound comes, and what is typed is answered."""
    before = statistics(page, "inbound-rtp").get("packetsReceived", 0)
    page.get_by_label("Type instead of talking").fill(word)
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#transcript li", has_text=word)).to_have_count(2)  # said, and echoed
    wait_for(lambda: statistics(page, "inbound-rtp")["packetsReceived"] > before + 25, "sound", timeout=30)


def test_a_call_moves_before_its_transceiver_ends_and_when_it_has(
    site: Site, fleet: dict[str, subprocess.Popen[bytes]], browser: Browser
) -> None:
    with RelayClient(relay_target(site)) as relay, open_page(browser, "about:blank") as page:

        def owners() -> list[str]:
            return [session.transceiver for session in relay.sessions()]

        page.add_init_script(WATCH)
        page.goto(ORIGIN)
        page.get_by_role("button", name="Call").click()
        expect(page.get_by_role("status")).to_have_text("In a call", timeout=TIMEOUT)
        works(page, "first")

        # In good time: make before break.
        (first,) = owners()
        fleet[first].send_signal(signal.SIGTERM)
        wait_for(lambda: owners() not in ([first], []) and len(owners()) == 1, "another one", timeout=30)
        (second,) = owners()
        assert second != first
        assert fleet[first].wait(30) == 0, "its last call was ended by the client"
        works(page, "second")
        assert page.evaluate("said") == ["Connecting …", "In a call"]
        # When the old call was closed, the new one was up, and its sound was what was played.
        assert page.evaluate("endings") == [{"others": ["connected"], "playing": 1}]

        # At once: there is nothing to make before.
        fleet[second].send_signal(signal.SIGTERM)
        fleet[second].send_signal(signal.SIGTERM)
        wait_for(lambda: owners() not in ([second], []), "another one", timeout=30)
        assert fleet[second].wait(30) == 0
        expect(page.get_by_role("status")).to_have_text("In a call", timeout=TIMEOUT)
        works(page, "third")
        (third,) = owners()
        assert {first, second, third} == set(NAMES)

        page.get_by_role("button", name="Hang up").click()
        expect(page.get_by_role("status")).to_have_text("Not in a call")
        wait_for(lambda: not owners(), "the session removed", timeout=10)


def test_where_nobody_else_is_the_call_lasts_as_long_as_it_may(
    site: Site, fleet: dict[str, subprocess.Popen[bytes]], browser: Browser
) -> None:
    """And may be hung up while another one is looked for."""
    (last,) = (name for name, process in fleet.items() if process.poll() is None)
    with RelayClient(relay_target(site)) as relay, open_page(browser, ORIGIN) as page:
        page.get_by_role("button", name="Call").click()
        expect(page.get_by_role("status")).to_have_text("In a call", timeout=TIMEOUT)
        fleet[last].send_signal(signal.SIGTERM)
        expect(page.locator("#events li", has_text="move")).to_have_count(1)
        works(page, "still there")
        page.get_by_role("button", name="Hang up").click()
        expect(page.get_by_role("status")).to_have_text("Not in a call")
        assert fleet[last].wait(30) == 0
        wait_for(lambda: not relay.sessions(), "the session removed", timeout=10)
        expect(page.get_by_role("alert")).to_be_hidden()
