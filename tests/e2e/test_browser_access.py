# SPDX-License-Identifier: Apache-2.0
"""The page in Chromium during a call: other microphones, and what a screen reader gets to say of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.lab.browser import TIMEOUT, chromium, open_page, statistics
from tests.lab.calls import wait_for
from tests.lab.relay_client import RelayClient
from tests.lab.services import relay_target
from tests.lab.topology import HTTP_PORT, SIGNALLING_TRANSCEIVER, Site

pytestmark = [pytest.mark.root, pytest.mark.netns, pytest.mark.e2e]

ORIGIN = f"http://{SIGNALLING_TRANSCEIVER}:{HTTP_PORT}"
# Notes each text that comes into a live region, which is what a screen reader says by itself.
LISTEN = """
    () => {
        window.announced = [];
        const live = "[role=status], [role=alert], [role=log], [aria-live]";
        for (const region of document.querySelectorAll(live)) {
            const role = region.getAttribute("role");
            const say = (text) => text && announced.push(`${role}: ${text}`);
            new MutationObserver((changes) => {
                if (role !== "log") return say(region.textContent);
                for (const node of changes.flatMap(({ addedNodes }) => [...addedNodes]))
                    say([...node.children].map((part) => part.textContent).join(" "));
            }).observe(region, { childList: true, characterData: true, subtree: true });
        }
    }
"""
TRACK = "earshot.call.peer.getSenders()[0].track"


@pytest.fixture(scope="module")
def browser(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with (
        sync_playwright() as playwright,
        chromium(playwright, site.client, tmp_path_factory.mktemp("browser"), origin=ORIGIN) as made,
    ):
        yield made


def call(page: Page) -> None:
    page.get_by_role("button", name="Call").click()
    expect(page.get_by_role("status")).to_have_text("In a call", timeout=TIMEOUT)


def hang_up(page: Page, site: Site) -> None:
    page.get_by_role("button", name="Hang up").click()
    with RelayClient(relay_target(site)) as relay:
        wait_for(lambda: not relay.sessions(), "the session removed", timeout=40)


def sent_sound(page: Page) -> float:
    """Energy of all that the microphone has given to the call."""
    return float(statistics(page, "media-source").get("totalAudioEnergy", 0))


def test_another_microphone_is_chosen_before_a_call_and_in_it(site: Site, browser: Browser) -> None:
    with open_page(browser, ORIGIN) as page:
        microphones = page.get_by_label("Microphone")
        call(page)
        # Their names are known only now that the browser has been asked for one.
        names = microphones.locator("option").all_text_contents()
        assert names[0] == "The browser's default"
        first, second = names[1:]
        assert first != second
        hang_up(page, site)
        microphones.select_option(label=second)
        call(page)
        assert page.evaluate(f"{TRACK}.label") == second
        before = page.evaluate_handle(TRACK)
        page.get_by_role("button", name="Mute").click()
        microphones.select_option(label=first)
        wait_for(lambda: page.evaluate(f"{TRACK}.label") == first, "the other microphone", timeout=40)
        assert before.evaluate("track => track.readyState") == "ended"
        assert not page.evaluate(f"{TRACK}.enabled"), "muted is muted, whichever it is"
        page.get_by_role("button", name="Muted").click()
        heard = sent_sound(page)
        wait_for(lambda: sent_sound(page) > heard, "sound of the other microphone", timeout=40)
        expect(page.get_by_role("alert")).to_be_hidden()
        # One that was pulled out: it is said, and the call goes on with the one it has.
        page.evaluate("document.getElementById('microphone').append(new Option('Gone', 'gone'))")
        microphones.select_option("gone")
        expect(page.get_by_role("alert")).to_contain_text("That microphone is not there any more")
        expect(microphones.locator("option:checked")).to_have_text(first)
        assert page.evaluate(f"{TRACK}.label") == first
        expect(page.get_by_role("status")).to_have_text("In a call")
        hang_up(page, site)


def test_what_a_screen_reader_says_of_a_call(site: Site, browser: Browser) -> None:
    with open_page(browser, ORIGIN) as page:
        page.evaluate(LISTEN)
        call(page)
        page.get_by_label("Type instead of talking").fill("hello there")
        page.get_by_label("Type instead of talking").press("Enter")
        expect(page.get_by_role("log")).to_contain_text("Echo")
        for name in ("rtt", "loss", "jitter"):
            expect(page.locator(f"#{name}")).not_to_have_text("–", timeout=TIMEOUT)
        tree = page.locator("body").aria_snapshot()
        for line in (
            r"- status: In a call",
            r'- combobox "Microphone":',
            r'- button "Call" \[disabled\]',
            r'- button "Mute"',
            r'- button "Hang up"',
            r'- meter "You"',
            r'- meter "Them"',
            r"- term: Round trip",
            r"- definition: [\d.]+ ms",
            r'- img "Round trip, [\d.]+ to [\d.]+ ms in the last minute"',
            r'- img "Loss, [\d.]+ to [\d.]+ % in the last minute"',
            r'- img "Jitter, [\d.]+ to [\d.]+ ms in the last minute"',
            r'- log "Transcript":',
            r"- listitem: You hello there",
            r"- listitem: Echo hello there",
            r'- textbox "Type instead of talking"',
            r'- list "Events":',
        ):
            assert re.search(f"^ *{line}", tree, re.MULTILINE), f"{line} in:\n{tree}"
        hang_up(page, site)
        expect(page.get_by_role("status")).to_have_text("Not in a call")
        # In their order, each once, and none of what changes every second.
        assert page.evaluate("announced") == [
            "status: Connecting …",
            "status: In a call",
            "log: You hello there",
            "log: Echo hello there",
            "status: Not in a call",
        ]


def test_what_speaks_for_itself_is_what_chromium_takes_for_live(browser: Browser) -> None:
    """In its own accessibility tree: politely, or at once where something went wrong; figures never."""
    with open_page(browser, ORIGIN) as page:
        page.route("**/whip", lambda route: route.abort())
        page.get_by_role("button", name="Call").click()
        expect(page.get_by_role("alert")).to_contain_text("The transceiver does not answer")
        politeness = live(page)
        assert politeness["alert"] == {"assertive"}
        assert politeness["status"] == politeness["log"] == {"polite"}
        for figures in ("meter", "image", "definition", "list"):
            assert politeness[figures] == {"off"}, figures


def live(page: Page) -> dict[str, set[str]]:
    """How each role's nodes speak for themselves, by what Chromium tells assistive technology."""
    nodes: list[dict[str, Any]] = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")[
        "nodes"
    ]
    found: dict[str, set[str]] = {}
    for node in nodes:
        if not node["ignored"]:
            values = {entry["name"]: entry["value"].get("value") for entry in node.get("properties", ())}
            found.setdefault(node["role"]["value"], set()).add(values.get("live", "off"))
    return found
