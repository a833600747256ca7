# SPDX-License-Identifier: Apache-2.0
"""A call from Chromium in an emulated machine, to the page that the transceiver serves."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Error, sync_playwright

from tests.lab.host import LabError
from tests.machines.machine import Machine

PAGE = "http://192.0.2.30:8080/"
TIMEOUT = 600_000.0  # milliseconds: emulated, a browser takes minutes to start
_PORT = 9222
_LOCAL_PORT = 2300
_FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-extensions "
    "--disable-background-networking --autoplay-policy=no-user-gesture-required "
    "--use-fake-ui-for-media-stream --use-fake-device-for-media-stream "
    f"--unsafely-treat-insecure-origin-as-secure={PAGE.rstrip('/')} "
    f"--remote-debugging-port={_PORT} --user-data-dir=/tmp/browser about:blank"
)
_STATE = "() => globalThis.earshot?.call?.peer?.connectionState ?? 'none'"
_RECEIVED = """async () => [...(await earshot.call.peer.getStats()).values()]
    .filter((entry) => entry.type === "inbound-rtp").reduce((sum, entry) => sum + entry.packetsReceived, 0)"""


def call(client: Machine, relay: Machine, folder: Path) -> dict[str, Any]:
    """Opens the page, presses Call, waits for sound; returns figures, and the flows that the relay shows."""
    started = time.monotonic()
    with (
        client.popen(f"timeout 1500 chromium {_FLAGS} >/tmp/browser.log 2>&1") as chromium,
        # Chromium listens on the machine's own loopback: by ssh, as a person would.
        subprocess.Popen(
            [*client.ssh()[:-1], "-N", "-L", f"{_LOCAL_PORT}:127.0.0.1:{_PORT}", client.name]
        ) as way,
    ):
        try:
            client.run(
                f"for i in $(seq 300); do ss -ltn | grep -q :{_PORT} && exit; sleep 1; done; "
                "cat /tmp/browser.log >&2; exit 1",
                timeout=400,
            )
            return _call(relay, folder, started)
        except Error as error:
            raise LabError(f"the browser's call: {error}") from error
        finally:
            way.terminate()
            chromium.terminate()
            client.run("pkill -x chromium || true")


def _call(relay: Machine, folder: Path, started: float) -> dict[str, Any]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.connect_over_cdp(f"http://127.0.0.1:{_LOCAL_PORT}", timeout=TIMEOUT)
        up = time.monotonic()
        page = browser.contexts[0].new_page()
        page.set_default_timeout(TIMEOUT)
        page.goto(PAGE)
        pressed = time.monotonic()
        page.get_by_role("button", name="Call").click()
        _wait(lambda: page.evaluate(_STATE) == "connected", "the call is connected")
        connected = time.monotonic()
        _wait(lambda: page.evaluate(_RECEIVED) >= 50, "the agent's sound arrives")
        flows = json.loads(relay.run("earshot flow list -o json"))
        page.screenshot(path=str(folder / "page.png"))
        return {
            "version": browser.version,
            "started_seconds": round(up - started),
            "page_seconds": round(pressed - up),
            "connected_seconds": round(connected - pressed, 1),
            "packets_received": page.evaluate(_RECEIVED),
            "flows": flows,
        }


def _wait(condition: Any, what: str) -> None:
    deadline = time.monotonic() + TIMEOUT / 1000
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"not within {TIMEOUT / 1000:.0f} s: {what}")
        time.sleep(0.5)
