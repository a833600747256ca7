# SPDX-License-Identifier: Apache-2.0
"""Chromium, Debian's, without a window and inside a host of a lab, driven by Playwright."""

from __future__ import annotations

import base64
import contextlib
import shlex
import shutil
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Browser, Page, Playwright, expect

from tests.lab.host import Host, LabError
from tests.lab.signals import RATE, Samples

TIMEOUT = 40_000.0  # milliseconds; of whatever a page is waited for, on a machine that has other work
expect.set_options(timeout=TIMEOUT)
_FLAGS = (
    "--use-fake-ui-for-media-stream",  # the question for the microphone is answered with yes
    "--autoplay-policy=no-user-gesture-required",
    "--disable-gpu",
    "--disable-dev-shm-usage",
)
# What a test compares with what was sent must not have been improved on the way.
RAW_MICROPHONE = """
    () => {
        const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
        navigator.mediaDevices.getUserMedia = ({ audio }) => open({ audio: {
            ...audio, echoCancellation: false, noiseSuppression: false, autoGainControl: false } });
    }
"""
# Records the stream that is played, as 16-bit samples of 48 kHz, for so many seconds.
_RECORD = """
    async (seconds) => {
        const context = new AudioContext({ sampleRate: 48000 });
        const processor = context.createScriptProcessor(4096, 1, 1);
        const pieces = [];
        context.createMediaStreamSource(document.getElementById("voice").srcObject).connect(processor);
        processor.connect(context.destination);
        await new Promise((done) => {
            processor.onaudioprocess = ({ inputBuffer }) => {
                pieces.push(Int16Array.from(inputBuffer.getChannelData(0), (sample) => sample * 32767));
                if (pieces.length * 4096 >= seconds * 48000) done();
            };
        });
        await context.close();
        const bytes = new Uint8Array(await new Blob(pieces).arrayBuffer());
        let text = "";
        for (let start = 0; start < bytes.length; start += 8192)
            text += String.fromCharCode(...bytes.subarray(start, start + 8192));
        return btoa(text);
    }
"""


@contextlib.contextmanager
def chromium(
    playwright: Playwright,
    host: Host | None,
    folder: Path,
    *,
    origin: str = "",
    wav: Path | None = None,
    microphone: bool = True,
) -> Iterator[Browser]:
    """A browser in that host.

    Args:
        playwright: of which there may be only one in a thread (`sync_playwright`).
        host: where it runs; None: here.
        folder: for the script that starts it.
        origin: of plain HTTP, and to be trusted like HTTPS all the same.
        wav: what the microphone hears, again and again, instead of Chromium's own beeps.
        microphone: whether there is one; there are two then, and a default.
    """
    program = shutil.which("chromium")
    if program is None:
        raise LabError("chromium is not installed (Debian's package has that name)")
    command = [program] if host is None else host.command(program)
    script = folder / "chromium"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    script.chmod(0o755)
    flags = [*_FLAGS]
    if microphone:
        flags.append("--use-fake-device-for-media-stream")
    if origin:
        flags.append(f"--unsafely-treat-insecure-origin-as-secure={origin}")
    if wav is not None:
        flags.append(f"--use-file-for-fake-audio-capture={wav}")
    browser = playwright.chromium.launch(executable_path=str(script), args=flags, timeout=TIMEOUT)
    try:
        yield browser
    finally:
        browser.close()


@contextlib.contextmanager
def open_page(browser: Browser, url: str, *, timeout: float = TIMEOUT, **context: Any) -> Iterator[Page]:
    """A page in a context of its own, with a time in ms for whatever it is waited for.

    Fails at its end if the page has thrown something.
    """
    opened = browser.new_context(**context)
    try:
        opened.set_default_timeout(timeout)
        page = opened.new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(url)
        yield page
        assert not faults, faults
    finally:
        opened.close()


def record(page: Page, seconds: float) -> Samples:
    """What the page plays, from now on."""
    data = np.frombuffer(base64.b64decode(page.evaluate(_RECORD, seconds)), np.int16)
    return data.astype(np.float32)[: round(seconds * RATE)] / np.float32(32768)


def statistics(page: Page, kind: str) -> dict[str, Any]:
    """The first of the call's RTCStats of a type; empty if there is none."""
    script = """async (kind) => [...(await earshot.call.peer.getStats()).values()].find(
        (entry) => entry.type === kind && entry.kind !== "video") ?? {}"""
    found: dict[str, Any] = page.evaluate(script, kind)
    return found


def write_wav(path: Path, sound: Samples) -> Path:
    """16 bits, mono, 48 kHz."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((sound * 32767).astype("<i2").tobytes())
    return path
