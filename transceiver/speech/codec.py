# SPDX-License-Identifier: Apache-2.0
"""Opus packets to samples and back: PCM of signed 16 bits, little-endian, mono, at a rate of choice.

Clients are sent 20 ms at a time. The encoder is told "audio" and a complexity of 5 of 10, which takes a
third of the time of its defaults, and at 32 kbit/s sounds the same to a listener.
"""

from __future__ import annotations

from transceiver.speech.libopus import OpusDecoder, OpusEncoder

OPUS_RATE = 48000  # of RTP timestamps too (RFC 7587, 4.1)
RATES = (8000, 16000, 24000, 48000)  # that libopus codes without resampling
FRAME_US = 20_000
SAMPLE_BYTES = 2
BIT_RATE = 32000
COMPLEXITY = 5
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


def decoder(rate: int) -> OpusDecoder:
    """Of a client's sound, one of `RATES`."""
    return OpusDecoder(rate)


def encoder(rate: int) -> OpusEncoder:
    """Of what a client hears."""
    return OpusEncoder(rate, BIT_RATE, COMPLEXITY)
