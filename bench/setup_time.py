# SPDX-License-Identifier: Apache-2.0
"""How long Chromium's calls take to begin: `scripts/bench setup-time --json FILE`.

Two servers, asked in turn by the same browser: `earshot`, a transceiver behind the XDP relay, and `stock`,
aiortc as it comes, on a link of its own to the browser's host and without any relay. Medians in milliseconds:

    dtls   from the offer's POST to a connection that is up (ICE and DTLS)
    audio  from making the offer to the first packet of sound that comes back
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from tests.lab.browser import chromium, open_page
from tests.lab.netns import Lab
from tests.lab.services import BIN, start, start_relay, start_transceiver, whip_url
from tests.lab.topology import two_armed

STOCK, CLIENT = "198.18.1.1", "198.18.1.2"
PORT = 8080
CALL = """
    async (whip) => {
        const microphone = await navigator.mediaDevices.getUserMedia({ audio: true });
        const peer = new RTCPeerConnection({ iceServers: [], bundlePolicy: "max-bundle" });
        peer.addTrack(microphone.getTracks()[0], microphone);
        const connected = new Promise((resolve) => {
            peer.onconnectionstatechange = () => {
                if (peer.connectionState === "connected") resolve(performance.now());
            };
        });
        const begun = performance.now();
        await peer.setLocalDescription();
        if (whip.gather) await new Promise((resolve) => {
            peer.onicegatheringstatechange = () => peer.iceGatheringState === "complete" && resolve();
        });
        const posted = performance.now();
        const response = await fetch(whip.url, {
            method: "POST",
            body: peer.localDescription.sdp,
            headers: { "Content-Type": "application/sdp" },
        });
        await peer.setRemoteDescription({ type: "answer", sdp: await response.text() });
        const up = await connected;
        const received = async () => [...(await peer.getStats()).values()].some(
            (entry) => entry.type === "inbound-rtp" && entry.packetsReceived > 0);
        while (!(await received())) await new Promise((resolve) => setTimeout(resolve, 1));
        const heard = performance.now();
        if (whip.hangUp)
            await fetch(new URL(response.headers.get("Location"), whip.url), { method: "DELETE" });
        peer.close();
        microphone.getTracks().forEach((track) => track.stop());
        return { dtls: up - posted, audio: heard - begun };
    }
"""


def measure(calls: int) -> dict[str, dict[str, float]]:
    """Medians, by server."""
    times: dict[str, list[dict[str, float]]] = {"earshot": [], "stock": []}
    with Lab() as lab, sync_playwright() as playwright:
        site = two_armed(lab)
        stock = lab.host("stock")
        lab.link(site.client, stock, [f"{CLIENT}/24"], [f"{STOCK}/24"])
        start_relay(site)
        start_transceiver(site, [4], "--max-load=1")
        start(lab, stock, str(BIN / "python"), "-m", "bench.stock", STOCK, str(PORT), STOCK)
        # The stock one sends checks itself, and so needs the client's candidates; it would take them trickled
        # by nobody. In the browser's favour gathering is not part of `dtls`.
        servers: dict[str, dict[str, Any]] = {
            "earshot": {"url": whip_url(), "hangUp": True},
            "stock": {"url": f"http://{STOCK}:{PORT}/whip", "gather": True},
        }
        origin = whip_url().removesuffix("/whip")
        with (
            chromium(playwright, site.client, lab.dir, origin=origin) as browser,
            open_page(browser, origin, bypass_csp=True) as page,
        ):
            for number in range(calls + 1):
                for name, server in servers.items():
                    one = page.evaluate(CALL, server)
                    if number > 0:  # the first is warm-up
                        times[name].append(one)
    return {
        name: {key: round(statistics.median(one[key] for one in ones), 1) for key in ("dtls", "audio")}
        for name, ones in times.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench setup-time", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the medians there")
    parser.add_argument("--calls", type=int, default=15, metavar="N", help="to each server (15)")
    options = parser.parse_args()
    medians = measure(options.calls)
    for name, ones in medians.items():
        print(f"{name:8} POST to DTLS {ones['dtls']:6.1f} ms   offer to first audio {ones['audio']:6.1f} ms")
    if options.json:
        result = {"calls": options.calls, "rows": [{"name": name, **ones} for name, ones in medians.items()]}
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
