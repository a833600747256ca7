# SPDX-License-Identifier: Apache-2.0
"""Opus packets to samples and back: PCM of signed 16 bits, little-endian, mono, at a rate of choice.

Clients are sent 20 ms at a time. The encoder is told "audio" and a complexity of 5 of 10, which takes a
third of the time of its defaults, and at 32 kbit/s sounds the same to a listener.
"""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext

OPUS_RATE = 48000  # of RTP timestamps too (RFC 7587, 4.1)
RATES = (8000, 16000, 24000, 48000)  # that libopus codes without resampling
FRAME_US = 20_000
SAMPLE_BYTES = 2
BIT_RATE = 32000
_OPTIONS = {"application": "audio", "frame_duration": "20", "compression_level": "5"}
_MILLISECONDS = {  # a frame's length by configuration (RFC 6716, 3.1): SILK, hybrid, CELT
    **{config: (10, 20, 40, 60)[config % 4] for config in range(12)},
    **{config: (10, 20)[config % 2] for config in range(12, 16)},
    **{config: (2.5, 5, 10, 20)[config % 4] for config in range(16, 32)},
}


def frame_bytes(rate: int) -> int:
    """Bytes of 20 ms."""
    return rate // 50 * SAMPLE_BYTES


def opus_us(packet: bytes) -> int:
    """Microseconds of sound in an Opus packet. Raises `ValueError` if it is none (RFC 6716, 3.2)."""
    if not packet:
        raise ValueError("an Opus packet has at least one byte")
    code = packet[0] & 3
    if code == 3 and len(packet) < 2:
        raise ValueError("an Opus packet of code 3 has at least two bytes")
    frames = packet[1] & 63 if code == 3 else (1, 2, 2)[code]
    microseconds = int(frames * _MILLISECONDS[packet[0] >> 3] * 1000)
    if not 0 < microseconds <= 120_000:
        raise ValueError(f"an Opus packet of {microseconds} us")
    return microseconds


class Decoder:
    """Turns one stream's packets into samples of `rate`."""

    def __init__(self, rate: int) -> None:
        codec = av.CodecContext.create("libopus", "r")
        assert isinstance(codec, AudioCodecContext)
        codec.format = "s16"
        codec.layout = "mono"
        codec.sample_rate = OPUS_RATE
        self._codec = codec
        self._resampler = None
        if rate != OPUS_RATE:
            self._resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)

    def decode(self, packet: bytes) -> bytes:
        """Raises `ValueError` (`av.FFmpegError` is one) if it is not Opus."""
        frames = self._codec.decode(av.Packet(packet))
        if self._resampler is not None:
            frames = [part for frame in frames for part in self._resampler.resample(frame)]
        return b"".join(frame.to_ndarray().tobytes() for frame in frames)


class Encoder:
    """Turns 20 ms of samples at a time into packets."""

    def __init__(self, rate: int) -> None:
        codec = av.CodecContext.create("libopus", "w")
        assert isinstance(codec, AudioCodecContext)
        codec.format = "s16"
        codec.layout = "mono"
        codec.sample_rate = rate
        codec.bit_rate = BIT_RATE
        codec.time_base = Fraction(1, rate)
        codec.options = dict(_OPTIONS)
        self._codec = codec
        self._rate = rate
        self._next = 0

    def encode(self, samples: bytes) -> bytes:
        """One packet for one frame."""
        frame = av.AudioFrame.from_ndarray(
            np.frombuffer(samples, np.int16).reshape(1, -1), format="s16", layout="mono"
        )
        frame.sample_rate = self._rate
        frame.pts = self._next
        self._next += frame.samples
        (packet,) = self._codec.encode(frame)
        return bytes(packet)
