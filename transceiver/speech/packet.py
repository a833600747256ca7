# SPDX-License-Identifier: Apache-2.0
"""Opus packets between a call and whoever it talks to: what `av.Packet` has, in a tenth of the time."""

from __future__ import annotations

from typing import NamedTuple


class OpusPacket(NamedTuple):
    """One packet (RFC 6716); `pts` counts samples of 48 kHz since the track's first."""

    pts: int
    data: bytes
