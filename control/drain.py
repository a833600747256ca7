# SPDX-License-Identifier: Apache-2.0
"""Whether a relay is being drained: kept among the pins, as all of its state, so that no restart forgets it.

The pin `drain_v1` is there while it is. It is a map of one entry, which holds since when, in seconds of
CLOCK_MONOTONIC; the program knows nothing of it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from control import libbpf

PIN = "drain_v1"
_KEY = bytes(4)


class Drain:
    """The mark of one datapath."""

    def __init__(self, pin_path: Path) -> None:
        self._pin = pin_path / PIN
        self.since = self._read()

    def begin(self, now: float) -> None:
        """Nothing changes where it has begun already."""
        if self.since is not None:
            return
        fd = libbpf.create_array("drain", 8, 1)
        try:
            libbpf.update(fd, _KEY, int(now).to_bytes(8, sys.byteorder))
            libbpf.pin(fd, self._pin)
        finally:
            os.close(fd)
        self.since = int(now)

    def end(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._pin.unlink()
        self.since = None

    def _read(self) -> int | None:
        try:
            fd = libbpf.get_pinned(self._pin)
        except FileNotFoundError:
            return None
        try:
            return int.from_bytes(libbpf.lookup(fd, _KEY, 8) or b"", sys.byteorder)
        finally:
            os.close(fd)
