# SPDX-License-Identifier: Apache-2.0
"""The page in Chromium, used as a person would: calls through the XDP relay, and errors in words."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, Playwright, expect, sync_playwright

from tests.lab.browser import (
    RAW_MICROPHONE,
    TIMEOUT,
    chromium,
    open_page,
    record,
    statistics,
    write_wav,
)
from tests.lab.calls import wait_for
from tests.lab.relay_client import RelayClient
from tests.lab.services import relay_target, start_agent, start_transceiver
from tests.lab.signals import chirps, share_found
from tests.lab.speech import silence, spoken
from tests.lab.topology import HTTP_PORT, SIGNALLING_TRANSCEIVER, Site

pytestmark = [pytest.mark.root, pytest.mark.netns, pytest.mark.e2e]

ORIGIN = f"http://{SIGNALLING_TRANSCEIVER}:{HTTP_PORT}"
SECONDS = 4.0  # of sound that the microphone hears, again and again
# Notes when the last event of each type came, and when there was something to hear, in milliseconds.
WATCH = """
    () => {
        earshot.told = {};
        earshot.heard = [];
        earshot.call.addEventListener("message", ({ detail }) => {
            earshot.told[detail.type] = performance.now();
        });
        const context = new AudioContext({ sampleRate: 48000 });
        const processor = context.createScriptProcessor(512, 1, 1);
        context.createMediaStreamSource(document.getElementById("voice").srcObject).connect(processor);
        processor.connect(context.destination);
        processor.onaudioprocess = ({ inputBuffer }) => {
            if (inputBuffer.getChannelData(0).some((sample) => Math.abs(sample) > 0.02))
                earshot.heard.push(performance.now());
        };
    }
"""
EVENTS = [
    re.compile(pattern)
    for pattern in (
        "^session · state: ready",
        "^agent",
        "^reply · text: Hello",
        "^turn · state: began",
        "^interrupted",
        "^reply_ended .* interrupted: true",
        "^turn · state: ended",
        "^transcript · text: banana",
        "^reply · text: Bananas",
        "^reply_ended .* interrupted: false",
    )
]


# In which order the page restarts ICE: requests when they are answered, descriptions when they are set.
WATCH_RESTART = """() => {
    window.steps = [];
    const { fetch } = window;
    window.fetch = async (url, options) => {
        const response = await fetch(url, options);
        steps.push(options.method);
        return response;
    };
    for (const name of ["setLocalDescription", "setRemoteDescription"]) {
        const set = RTCPeerConnection.prototype[name];
        RTCPeerConnection.prototype[name] = function (description) {
            steps.push(name);
            return set.call(this, description);
        };
    }
}"""


@pytest.fixture(scope="module")
def relay(site: Site) -> Iterator[RelayClient]:
    with RelayClient(relay_target(site)) as client:
        yield client


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as made:
        yield made


@pytest.fixture(scope="module")
def browser(
    site: Site, playwright: Playwright, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Browser]:
    """Chromium in the client host, whose microphone hears chirps."""
    folder = tmp_path_factory.mktemp("browser")
    wav = write_wav(folder / "chirps.wav", chirps(3, SECONDS))
    with chromium(playwright, site.client, folder, origin=ORIGIN, wav=wav) as made:
        yield made


def call(page: Page) -> None:
    """Presses the button, and waits until the call is up."""
    page.get_by_role("button", name="Call").click()
    expect(page.get_by_role("status")).to_have_text("In a call", timeout=TIMEOUT)


def hang_up(page: Page, relay: RelayClient) -> None:
    page.get_by_role("button", name="Hang up").click()
    expect(page.get_by_role("status")).to_have_text("Not in a call")
    wait_for(lambda: not relay.sessions(), "the session removed", timeout=40)


def test_a_call_with_sound_both_ways_and_a_data_channel(browser: Browser, relay: RelayClient) -> None:
    with open_page(browser, ORIGIN) as page:
        page.evaluate(RAW_MICROPHONE)
        call(page)
        heard = record(page, SECONDS)
        # The sound goes round, and the browser fits it to its own clock.
        assert share_found(np.tile(chirps(3, SECONDS), 2), heard) > 0.5
        page.get_by_label("Type instead of talking").fill("hello there")
        page.get_by_label("Type instead of talking").press("Enter")
        expect(page.get_by_role("log")).to_contain_text("Echohello there")
        expect(page.locator("#events")).to_contain_text("echo")
        for name in ("rtt", "loss", "jitter"):
            expect(page.locator(f"#{name}")).not_to_have_text("–")
            assert page.locator(f"#{name} + svg polyline").get_attribute("points")
        expect(page.locator("#path")).to_have_text("203.0.113.1:3478")
        flows = relay.flows()  # one for each address that the browser has tried
        assert sum(flow.to_transceiver_packets for flow in flows) > 200
        assert sum(flow.to_client_packets for flow in flows) > 200
        page.get_by_role("button", name="Mute").click()
        expect(page.get_by_role("button", name="Muted")).to_have_attribute("aria-pressed", "true")
        wait_for(lambda: statistics(page, "media-source")["audioLevel"] == 0, "silence sent", timeout=40)
        hang_up(page, relay)


def test_a_call_goes_on_while_its_ice_restarts(
    browser: Browser, relay: RelayClient, record_property: Callable[[str, object], None]
) -> None:
    with open_page(browser, ORIGIN) as page:
        call(page)

        def received() -> int:
            return int(statistics(page, "inbound-rtp").get("packetsReceived", 0))

        wait_for(lambda: received() > 50, "sound", timeout=40)
        (before,) = [set(session.ufrags) for session in relay.sessions()]
        ports = {flow.client.port for flow in relay.flows()}
        concealed = statistics(page, "inbound-rtp")["concealedSamples"]
        page.evaluate(WATCH_RESTART)
        page.evaluate("earshot.call.restartIce()")
        # Ports that it opens before the answer go on with the old credentials.
        assert page.evaluate("steps") == ["PATCH", "setLocalDescription", "setRemoteDescription"]

        def renewed() -> bool:
            """New credentials hold, and sound comes from a port that the browser has opened for them.

            Whether the old ones go is the browser's to decide: it may have begun to use the port with those.
            """
            (now,) = [set(session.ufrags) for session in relay.sessions()]
            return bool(now - before) and any(
                flow.client.port not in ports and flow.to_transceiver_packets > 50 for flow in relay.flows()
            )

        wait_for(renewed, "new credentials, and sound from a new port", timeout=40)
        until = received() + 50
        wait_for(lambda: received() > until, "sound", timeout=40)
        gap = statistics(page, "inbound-rtp")["concealedSamples"] - concealed
        record_property("chromium_restart_concealed_ms", round(gap / 48))
        expect(page.get_by_role("status")).to_have_text("In a call")
        hang_up(page, relay)


def test_it_is_used_by_the_keyboard_alone_and_on_a_phone(browser: Browser, relay: RelayClient) -> None:
    with open_page(browser, ORIGIN, viewport={"width": 360, "height": 740}) as page:
        names = []
        for _ in range(2):
            page.keyboard.press("Tab")
            names.append(page.evaluate("document.activeElement.id"))
        assert names == ["microphone", "start"]
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_have_text("In a call", timeout=TIMEOUT)
        assert page.evaluate("document.activeElement.id") == "hang-up"
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert (
            page.locator("button, input, select").evaluate_all(
                "all => all.filter((one) => one.offsetParent && one.offsetHeight < 40).length"
            )
            == 0
        )
        page.keyboard.press("Space")
        expect(page.get_by_role("status")).to_have_text("Not in a call")
        assert page.evaluate("document.activeElement.id") == "start"
        wait_for(lambda: not relay.sessions(), "the session removed", timeout=40)


def test_every_control_has_a_name_and_every_part_a_heading(browser: Browser) -> None:
    with open_page(browser, ORIGIN) as page:
        tree = page.locator("body").aria_snapshot()
        for line in (
            '- heading "Earshot" [level=1]',
            "- status: Not in a call",
            '- combobox "Microphone"',
            '- button "Call"',
            '- button "Mute" [disabled]',
            '- button "Hang up" [disabled]',
            '- meter "You"',
            '- log "Transcript"',
            '- textbox "Type instead of talking" [disabled]',
            '- region "Connection"',
            '- img "Round trip, nothing measured yet"',
            '- region "Events"',
        ):
            assert line in tree, tree


def test_errors_are_said_in_words(site: Site, browser: Browser, relay: RelayClient) -> None:
    with open_page(browser, ORIGIN) as page:
        error = page.get_by_role("alert")
        # The relay cannot be reached: the client host's firewall lets no UDP out.
        site.client.nft(
            "table inet deaf { chain output { type filter hook output priority 0; meta l4proto udp drop; }; }"
        )
        try:
            page.clock.install()
            page.get_by_role("button", name="Call").click()
            wait_for(lambda: bool(relay.sessions()), "the answer", timeout=40)
            wait_for(
                lambda: page.evaluate("Boolean(earshot.call.path)"), "the way that was chosen", timeout=40
            )
            page.clock.fast_forward(16_000)
            expect(error).to_contain_text("The relay cannot be reached: no answer from 203.0.113.1:3478")
        finally:
            site.client.run("nft", "delete", "table", "inet", "deaf")
        expect(page.get_by_role("status")).to_have_text("Not in a call")
        wait_for(lambda: not relay.sessions(), "the session removed", timeout=40)
    with open_page(browser, ORIGIN) as page:
        error = page.get_by_role("alert")
        page.route("**/whip", lambda route: route.abort())
        page.get_by_role("button", name="Call").click()
        expect(error).to_contain_text("The transceiver does not answer")
        page.unroute("**/whip")
        call(page)
        expect(error).to_be_hidden()
        hang_up(page, relay)


def test_a_full_transceiver_and_a_wanted_token_are_explained(
    site: Site, playwright: Playwright, relay: RelayClient, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("secret\n")
    port = HTTP_PORT + 1
    start_transceiver(
        site,
        [4],
        "--name=strict",
        f"--http={SIGNALLING_TRANSCEIVER}:{port}",
        f"--auth-token-file={tokens}",
        "--max-calls=1",
        "--max-load=1",
    )
    strict = f"http://{SIGNALLING_TRANSCEIVER}:{port}"
    with (
        chromium(playwright, site.client, tmp_path, origin=strict) as other,
        open_page(other, strict) as page,
    ):
        error = page.get_by_role("alert")
        page.get_by_role("button", name="Call").click()
        expect(error).to_contain_text("wants an access token")
        page.get_by_label("Access token").fill("secret")
        call(page)
        with open_page(other, strict) as second:
            second.get_by_role("button", name="Call").click()
            second.get_by_label("Access token").fill("secret")
            second.get_by_role("button", name="Call").click()
            expect(second.get_by_role("alert")).to_contain_text("no room for another call")
        hang_up(page, relay)


def test_no_microphone_is_explained(site: Site, playwright: Playwright, tmp_path: Path) -> None:
    with (
        chromium(playwright, site.client, tmp_path, origin=ORIGIN, microphone=False) as other,
        open_page(other, ORIGIN) as page,
    ):
        page.get_by_role("button", name="Call").click()
        expect(page.get_by_role("alert")).to_contain_text("No microphone was found")
    with chromium(playwright, site.client, tmp_path) as other, open_page(other, ORIGIN) as page:
        page.get_by_role("button", name="Call").click()
        expect(page.get_by_role("alert")).to_contain_text("Open this page by HTTPS")


def test_a_call_over_https_needs_no_trust_in_the_origin(
    site: Site, playwright: Playwright, relay: RelayClient, tmp_path: Path
) -> None:
    """A microphone because the page came by HTTPS; the certificate's signer is not looked at."""
    certificate, key = tmp_path / "crt", tmp_path / "key"
    made = ("-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=talk")
    files = ("-keyout", str(key), "-out", str(certificate))
    subprocess.run(["openssl", "req", *made, *files], check=True, capture_output=True, timeout=10)
    port = HTTP_PORT + 3
    start_transceiver(
        site,
        [4],
        "--name=secure",
        f"--http={SIGNALLING_TRANSCEIVER}:{port}",
        f"--http-certificate={certificate}",
        f"--http-key={key}",
        "--max-load=1",
    )
    with (
        chromium(playwright, site.client, tmp_path) as other,
        open_page(other, f"https://{SIGNALLING_TRANSCEIVER}:{port}", ignore_https_errors=True) as page,
    ):
        call(page)
        wait_for(
            lambda: statistics(page, "inbound-rtp").get("packetsReceived", 0) > 50, "sound back", timeout=40
        )
        hang_up(page, relay)


def test_somebody_speaks_and_is_answered(
    site: Site,
    playwright: Playwright,
    relay: RelayClient,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """A spoken question in the browser's microphone, while the agent still greets; its answer is heard."""
    port = HTTP_PORT + 2
    start_transceiver(
        site,
        [4],
        "--name=agents",
        f"--http={SIGNALLING_TRANSCEIVER}:{port}",
        f"--backend={start_agent(site)}",
        "--max-load=1",
    )
    origin = f"http://{SIGNALLING_TRANSCEIVER}:{port}"
    wav = write_wav(tmp_path / "question.wav", np.concatenate([silence(2.5), spoken("banana"), silence(60)]))
    with (
        chromium(playwright, site.client, tmp_path, origin=origin, wav=wav) as other,
        open_page(other, origin) as page,
    ):
        call(page)
        # When sound comes, by the page's own clock, and what it was told.
        page.evaluate(WATCH)
        transcript = page.get_by_role("log")
        expect(transcript).to_contain_text("no language model")
        expect(transcript).to_contain_text("Youbanana", timeout=TIMEOUT)
        expect(transcript).to_contain_text("Bananas are yellow.")
        wait_for(
            lambda: page.evaluate("earshot.heard.some((at) => at > earshot.told.reply)"), "speech", timeout=30
        )
        expect(page.locator("#events li span")).to_have_text(EVENTS, timeout=TIMEOUT)
        expect(transcript.locator("li[data-cut]")).to_have_count(1)  # the greeting
        told, heard = page.evaluate("[earshot.told, earshot.heard]")
        first = min(at for at in heard if at > told["turn"])
        # The turn's end is told when it has been noticed, 500 ms after the last sound of it.
        record_property("end_of_speech_to_first_audio_ms", round(first - told["turn"]) + 500)
        hang_up(page, relay)
