# SPDX-License-Identifier: Apache-2.0
"""A limit of log lines, by event."""

from __future__ import annotations

import logging
import time


class RateLimit(logging.Filter):
    """Lets so many lines of an event pass in a while; the first one after it says how many it was not.

    Whoever can make us log can do so all day, and nobody reads the ten-thousandth line.
    """

    def __init__(self, lines: int = 30, seconds: float = 10.0) -> None:
        super().__init__()
        self._lines = lines
        self._seconds = seconds
        self._windows: dict[str, tuple[float, int]] = {}  # when it began, and lines in it, by event

    def filter(self, record: logging.LogRecord) -> bool:
        fields: dict[str, object] | None = getattr(record, "fields", None)
        if fields is None:
            return True  # not an event: a library's, which are few
        name, now = record.getMessage(), time.monotonic()
        began, lines = self._windows.get(name, (now, 0))
        if now - began >= self._seconds:
            if lines > self._lines:
                record.__dict__["fields"] = {**fields, "suppressed": lines - self._lines}
            began, lines = now, 0
        self._windows[name] = (began, lines + 1)
        return lines < self._lines
