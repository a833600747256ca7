# SPDX-License-Identifier: Apache-2.0
"""Whole calls by aiortc through the XDP relay: the demo, as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import IO

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.lab.browser import TIMEOUT, chromium, open_page, statistics, write_wav
from tests.lab.calls import wait_for
from tests.lab.leftovers import kept_labs, labs
from tests.lab.netns import Lab
from tests.lab.speech import silence

pytestmark = [pytest.mark.root, pytest.mark.netns, pytest.mark.e2e]

DEMO = Path(__file__).parents[2] / "scripts" / "demo"
CALLS = int(os.environ.get("EARSHOT_DEMO_CALLS", "3"))  # fewer where a machine is emulated
SECONDS = 3


def demo(*arguments: str, stdout: int | IO[str] = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen([str(DEMO), *arguments], stdout=stdout, stderr=subprocess.STDOUT, text=True)


def labs_of(process: subprocess.Popen[str]) -> list[str]:
    """Labs of which anything is there; the script becomes the demo, and keeps its number."""
    return [prefix for prefix in labs() if prefix.startswith(f"es-{process.pid}-")]


def processes_of(prefix: str) -> list[str]:
    """Command lines that name a lab's folder or namespaces."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if f"/{prefix}" in line:
                found.append(line)
    return found


@pytest.mark.parametrize(("family", "workers"), [(4, 1), (6, 2)], ids=["v4", "v6-workers"])
def test_calls_connect_and_hear_themselves(
    tmp_path: Path, pytestconfig: pytest.Config, family: int, workers: int
) -> None:
    figures_file = tmp_path / "demo.json"
    arguments = [
        "--calls",
        str(CALLS),
        "--seconds",
        str(SECONDS),
        "--json",
        str(figures_file),
        "--workers",
        str(workers),
    ]
    with demo(*arguments, *(["--ipv6"] if family == 6 else [])) as process:
        # Without limits on an emulated machine (scripts/kernel-test).
        output, _ = process.communicate(timeout=None if pytestconfig.getoption("timeout") == 0 else 100)
    assert process.returncode == 0, output
    assert labs_of(process) == []
    figures = json.loads(figures_file.read_text())
    assert figures["ip_version"] == family
    for key in ("calls", "connected", "audio_verified", "data_channel_verified"):
        assert figures[key] == CALLS, (key, output)
    assert len(figures["setup_ms"]) == CALLS
    assert figures["xdp_mode"] == "native"
    assert figures["relay"]["stack_packets"] == 0
    assert figures["signalling_udp_packets"] == 0
    # 50 packets of audio a second, each way.
    assert figures["relay"]["to_transceiver_packets"] > CALLS * SECONDS * 40
    assert figures["relay"]["to_client_packets"] > CALLS * SECONDS * 40
    assert "PACKETS UP" in output
    assert "Proved:" in output


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.nightly)],
)
def test_interrupted_it_removes_everything(tmp_path: Path, number: signal.Signals, status: int) -> None:
    log = tmp_path / "output"
    with log.open("w") as output, demo("--calls", "2", "--seconds", "60", stdout=output) as process:
        wait_for(lambda: "PACKETS UP" in log.read_text(), "a table of flows", timeout=40)
        (prefix,) = labs_of(process)
        assert processes_of(prefix)
        process.send_signal(number)
        assert process.wait(20) == status
    assert labs_of(process) == []
    assert processes_of(prefix) == []


@pytest.mark.nightly
def test_what_is_kept_can_be_removed() -> None:
    with demo("--calls", "1", "--seconds", "1", "--keep") as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    (prefix,) = labs_of(process)
    assert prefix in kept_labs()
    assert f"scripts/demo --clean {prefix}" in output
    assert processes_of(prefix)
    with demo("--clean", prefix) as cleaning:
        assert f"removed {prefix}" in cleaning.communicate(timeout=30)[0]
    assert labs_of(process) == []
    assert processes_of(prefix) == []


def test_a_browser_on_this_machine_calls_through_the_relay(tmp_path: Path) -> None:
    """This machine is played by a host of its own, so that no other one is touched."""
    with Lab() as lab, sync_playwright() as playwright:
        machine = lab.host("machine")
        process = lab.popen(machine, str(DEMO), "--browser", "8088", log="demo")
        log = lab.log("demo")
        wait_for(lambda: "Open http://localhost:8088" in log.read_text(), "the address", timeout=40)
        # Chromium's own beeps may come before the agent has said a word, which it then keeps to itself.
        quiet = write_wav(tmp_path / "silence.wav", silence(10))
        with (
            chromium(playwright, machine, tmp_path, wav=quiet) as browser,
            open_page(browser, "http://localhost:8088") as page,
        ):
            # No flag makes it so: browsers give pages of localhost their microphone.
            assert page.evaluate("isSecureContext")
            page.get_by_role("button", name="Call").click()
            expect(page.get_by_role("status")).to_have_text("In a call", timeout=TIMEOUT)
            expect(page.get_by_role("log")).to_contain_text("Hello. I am a small", timeout=TIMEOUT)
            wait_for(lambda: statistics(page, "inbound-rtp")["totalAudioEnergy"] > 0, "speech", timeout=40)
            wait_for(lambda: "PACKETS UP" in log.read_text(), "the table of flows", timeout=40)
            page.get_by_role("button", name="Hang up").click()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130, log.read_text()
        assert "; 0 were seen by the relay host's own network stack" in log.read_text()
        assert [prefix for prefix in labs() if prefix.startswith(f"es-{process.pid}-")] == []
