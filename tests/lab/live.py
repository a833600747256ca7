# SPDX-License-Identifier: Apache-2.0
"""A table that is drawn again in place on a terminal, and now and then elsewhere."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from typing import TextIO

UP_AND_CLEAR = "\x1b[{lines}A\x1b[J"
TERMINAL_PERIOD = 0.5  # seconds
LOG_PERIOD = 4.0


class LiveTable:
    """Shows the newest state of a table; `finish` leaves its last state standing."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._terminal = out.isatty()
        self._period = TERMINAL_PERIOD if self._terminal else LOG_PERIOD
        self._next = time.monotonic()
        self._shown: Sequence[str] = ()
        self._newest: Sequence[str] = ()

    def show(self, lines: Sequence[str]) -> None:
        self._newest = self._fitted(lines) if self._terminal else lines
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._period
            self._draw()

    def finish(self) -> None:
        if self._newest != self._shown:
            self._draw()

    def _fitted(self, lines: Sequence[str]) -> list[str]:
        """What can be drawn over: a line that wraps, or one that has scrolled away, cannot."""
        size = shutil.get_terminal_size()
        return [line[: size.columns] for line in lines[: size.lines - 2]]

    def _draw(self) -> None:
        if self._terminal and self._shown:
            self._out.write(UP_AND_CLEAR.format(lines=len(self._shown) + 1))
        self._out.writelines(f"{line}\n" for line in (*self._newest, ""))
        self._out.flush()
        self._shown = self._newest
