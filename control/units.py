# SPDX-License-Identifier: Apache-2.0
"""Quantities as people read them. Programs get the plain numbers."""

from __future__ import annotations

_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def in_bytes(count: int) -> str:
    """``999 B``, ``1.5 KiB``: at most four characters before the unit."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in _UNITS:
        value /= 1024
        if value < 999.5 or unit == _UNITS[-1]:
            break
    return f"{value:.0f} {unit}" if value >= 99.95 else f"{value:.1f} {unit}"


def in_time(seconds: int) -> str:
    """``59s``, ``12m03s``, ``5h00m``, ``3d07h``: two units at most."""
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{seconds:02}s" if minutes else f"{seconds}s"


def in_milliseconds(count: int) -> str:
    """``0.3s`` below ten seconds, where the tenths tell a live call from a lost one; else as in_time."""
    return f"{count / 1000:.1f}s" if count < 9950 else in_time(round(count / 1000))


def in_count(count: float) -> str:
    """``0``, ``0.3``, ``17``, ``1.2k``, ``3.4M``: four characters, and a unit of thousands."""
    for unit, scale in (("", 1), ("k", 1_000), ("M", 1_000_000), ("G", 1_000_000_000)):
        value = count / scale
        if value < 999.5 or unit == "G":
            break
    return f"{value:.0f}{unit}" if value >= 9.95 or not value else f"{value:.1f}{unit}"


def in_rate(per_second: float) -> str:
    """The same, ``1.2k/s``."""
    return f"{in_count(per_second)}/s"
