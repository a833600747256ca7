# SPDX-License-Identifier: Apache-2.0
"""Somebody who speaks: espeak-ng."""

from __future__ import annotations

import io
import subprocess
import wave

import numpy as np

from tests.lab.signals import RATE, Samples


def spoken(text: str) -> Samples:
    """A voice that says it, at 48 kHz, without the silence around it."""
    argv = ["espeak-ng", "--stdout", "-v", "en-us", "-s", "160", "--", text]
    with wave.open(
        io.BytesIO(subprocess.run(argv, capture_output=True, timeout=10, check=True).stdout)
    ) as file:
        rate = file.getframerate()
        said = np.frombuffer(file.readframes(1 << 30), np.int16) / 32768
    loud = np.flatnonzero(np.abs(said) > 0.02)
    said = said[loud[0] : loud[-1]]
    times = np.arange(round(len(said) * RATE / rate)) * rate / RATE
    sound: Samples = np.interp(times, np.arange(len(said)), said).astype(np.float32)
    return sound


def silence(seconds: float) -> Samples:
    """Nobody says anything."""
    return np.zeros(round(seconds * RATE), np.float32)
