# SPDX-License-Identifier: Apache-2.0
"""Sound to call with, and the proof that it came back.

A signal is a random sequence of chirps in the band of speech, a sequence of its own for each seed, so that
one call's sound is not mistaken for another's. It is mono, 48 kHz, and float between -1 and 1.

The proof is the normalised cross-correlation of what was sent with what came back, in the band from 300 to
3400 Hz, at the best lag between `LAG_MIN` and `LAG_MAX`. It is 1 for a perfect copy of all of it. Coding by
Opus leaves it above 0.9; what is missing, silent or foreign lowers it in proportion to its energy: half a
call that is echoed well scores 0.7, a tenth 0.3. Noise, or another seed's signal, scores below 0.1 (the
largest of many random values, which falls with the signal's length). `THRESHOLD` lies in between.
"""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

RATE = 48000
# An emulated host has a multiple of the time that others have, and a sixth of their packets.
PATIENCE = float(os.environ.get("EARSHOT_LAB_PATIENCE", "1"))
FRAME_MS = 20 if PATIENCE == 1 else 120
FRAME = FRAME_MS * RATE // 1000  # samples in a packet
THRESHOLD = 0.6
LAG_MIN, LAG_MAX = -2.0, 2.0  # seconds; negative where the first packets went unheard
_BAND = (300.0, 3400.0)
_CORRELATION_RATE = RATE // 3
_CHIRP_SECONDS = 0.08
_LEVEL = 0.3
_BIT_RATE = 48000


def chirps(seed: int, seconds: float) -> Samples:
    """The signal of a seed: chirps of 80 ms between random frequencies, with soft edges."""
    random = np.random.default_rng(seed)
    length = round(_CHIRP_SECONDS * RATE)
    count = -(-round(seconds * RATE) // length)
    start, end = random.uniform(_BAND[0] + 100, _BAND[1] - 400, (2, count, 1))
    time = np.arange(length) / RATE
    phase = 2 * np.pi * (start * time + (end - start) * time**2 / (2 * _CHIRP_SECONDS))
    level = _LEVEL * random.uniform(0.4, 1.0, (count, 1))
    sound: Samples = (level * np.hanning(length) ** 0.5 * np.sin(phase)).astype(np.float32)
    return sound.reshape(-1)[: round(seconds * RATE)]


def from_wav(path: Path, seed: int, seconds: float) -> Samples:
    """A file's sound, repeated as needed; each seed begins at a place of its own in it.

    Raises `av.FFmpegError` if the file cannot be read, `ValueError` if it is empty.
    """
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
    with av.open(str(path)) as file:
        parts = [part.to_ndarray()[0] for frame in file.decode(audio=0) for part in resampler.resample(frame)]
    if not parts:
        raise ValueError(f"{path} holds no sound")
    sound = np.concatenate(parts).astype(np.float32) / 32768
    offset = int(np.random.default_rng(seed).integers(len(sound)))
    return np.resize(np.roll(sound, -offset), round(seconds * RATE))


def encode(
    sound: Samples, frame_ms: int = FRAME_MS, application: str = "lowdelay", bit_rate: int = _BIT_RATE
) -> list[bytes]:
    """Opus packets of so many milliseconds each.

    `application`: libopus' word. With "lowdelay" there is one mode throughout: others change their delay
    midway. With "voip" and up to 24 kbit/s most packets of 60 ms are one frame.
    """
    codec = av.CodecContext.create("libopus", "w")
    assert isinstance(codec, av.AudioCodecContext)
    codec.bit_rate = bit_rate
    codec.format = "s16"
    codec.layout = "mono"
    codec.sample_rate = RATE
    codec.time_base = Fraction(1, RATE)
    codec.options = {"application": application, "frame_duration": str(frame_ms)}
    length = frame_ms * RATE // 1000
    padded = np.pad(sound, (0, -len(sound) % length))
    samples = (padded.clip(-1, 1) * 32767).astype(np.int16).reshape(-1, 1, length)
    packets = []
    for number, part in enumerate(samples):
        frame = av.AudioFrame.from_ndarray(part, format="s16", layout="mono")
        frame.sample_rate = RATE
        frame.pts = number * length
        packets += codec.encode(frame)
    return [bytes(packet) for packet in [*packets, *codec.encode(None)]]


def correlation(sent: Samples, received: Samples) -> float:
    """How much of `sent` is in `received`: from 0 (nothing) to 1 (a copy)."""
    size = _transform_size(len(sent) + len(received))
    # Of the spectra the band alone is kept: minutes of sound take gigabytes otherwise.
    low, high = (round(frequency * size / RATE) for frequency in _BAND)
    spectra = [np.fft.rfft(sound, size)[low:high].copy() for sound in (sent, received)]
    energies = [float(np.sum(np.abs(spectrum) ** 2)) for spectrum in spectra]
    if min(energies) < 1e-6 * size:  # silence correlates with nothing
        return 0.0
    small = size * _CORRELATION_RATE // RATE
    product = np.zeros(small // 2 + 1, np.complex128)
    product[low:high] = np.conj(spectra[0]) * spectra[1]
    # Parseval, for one-sided spectra: with the full energies on both sides a copy comes to 1.
    lags = np.fft.irfft(product, small) * small / 2 / np.sqrt(energies[0] * energies[1])
    first, last = round(LAG_MIN * _CORRELATION_RATE), round(LAG_MAX * _CORRELATION_RATE)
    return float(np.max(np.concatenate([lags[first:], lags[: last + 1]])))


def share_found(sent: Samples, received: Samples, piece: float = 0.5) -> float:
    """Which share of what was received, in pieces of so many seconds, is somewhere in `sent`: from 0 to 1.

    A listener that stretches sound or leaves some out, as a busy browser does, shifts what follows: over
    seconds nothing correlates then, while each piece still does.
    """
    length = round(piece * RATE)
    pieces = [received[start : start + length] for start in range(0, len(received) - length + 1, length)]
    size = _transform_size(len(sent) + length)
    spectrum = np.fft.rfft(sent, size)
    sums = np.concatenate([[0.0], np.cumsum(sent.astype(np.float64) ** 2)])
    energies = sums[length:] - sums[:-length]
    found = 0
    for one in pieces:
        lags = np.fft.irfft(spectrum * np.conj(np.fft.rfft(one, size)), size)[: len(energies)]
        scale = np.sqrt(energies * float(np.sum(one.astype(np.float64) ** 2)))
        found += bool(np.max(lags / np.maximum(scale, 1e-6)) > THRESHOLD)
    return found / max(len(pieces), 1)


def _transform_size(length: int) -> int:
    """At least `length`, and 3 times a power of two."""
    size = 3
    while size < length:
        size *= 2
    return size
