# SPDX-License-Identifier: Apache-2.0
"""The clock that the packet program reads: jiffies, and what they are in CLOCK_MONOTONIC (bpf/clock.h)."""

from __future__ import annotations

import functools
import struct
import time
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from control import libbpf
from control.errors import DatapathError

_PROGRAM = "read_clocks"
_PACKET = bytes(64)
_EDGES = 4  # looked at: some of them a tick may come late to
_CLOCK_MONOTONIC_COARSE = 6
_SECOND = 1_000_000_000


class Jiffies(NamedTuple):
    """CLOCK_MONOTONIC is jiffies * nanoseconds - offset, as of the last tick."""

    nanoseconds: int
    offset: int


@functools.cache  # until the next boot
def measure() -> Jiffies:
    """Watches some jiffies begin.

    Raises:
        OSError: the kernel refuses the program.
        DatapathError: the kernel's jiffies stand still.
    """
    with libbpf.BpfObject(Path(str(resources.files("control") / "clock.bpf.o"))) as program:
        program.load()
        fd = program.program_fd(_PROGRAM)
        return of_edges(_length(), [_edge(fd) for _ in range(_EDGES)])


def of_edges(length: int, edges: Iterable[tuple[int, int]]) -> Jiffies:
    """What readings, (jiffies, nanoseconds), say that were taken just after a jiffy of that length began.

    The one that came soonest after it says best when that was.
    """
    return Jiffies(length, max(jiffies * length - nanoseconds for jiffies, nanoseconds in edges))


def _length() -> int:
    """Nanoseconds of a jiffy: the coarse clock goes forward once in each, and says so as its resolution.

    Not measured: at 250 Hz a tick that comes half a millisecond late would be enough to make 256 Hz of it.
    """
    return round(time.clock_getres(_CLOCK_MONOTONIC_COARSE) * _SECOND)


def _edge(fd: int) -> tuple[int, int]:
    """Jiffies and nanoseconds soon after a jiffy began."""
    before = _read(fd)
    for _ in range(1_000_000):
        now = _read(fd)
        if now[0] != before[0]:
            return now
        before = now
    raise DatapathError("the kernel's jiffies stand still")


def _read(fd: int) -> tuple[int, int]:
    jiffies, nanoseconds = struct.unpack_from("=QQ", libbpf.run_program(fd, _PACKET).data)
    return jiffies, nanoseconds
