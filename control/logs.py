# SPDX-License-Identifier: Apache-2.0
"""Logs for people and for programs: one line an event, ``key=value`` with quotes where they are needed."""

from __future__ import annotations

import json
import logging
import re
import sys
import time

_PLAIN = re.compile(r"[^\s\"=\\]+")


def event(logger: logging.Logger, level: int, name: str, *, exc_info: bool = False, **fields: object) -> None:
    """Logs an event with its fields. Never give it a pwd."""
    logger.log(level, name, extra={"fields": fields}, exc_info=exc_info)


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


def set_up(level: str) -> None:
    """Sends all logs to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(RateLimit())
    handler.setFormatter(KeyValueFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def set_level(level: str) -> None:
    """Another level from now on."""
    logging.getLogger().setLevel(level.upper())


class KeyValueFormatter(logging.Formatter):
    """``time=2026-01-31T12:00:00.000Z level=info event=ready key=value``, always one line."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        head = f"time={seconds}.{int(record.msecs):03}Z level={record.levelname.lower()}"
        fields: dict[str, object] | None = getattr(record, "fields", None)
        message = record.getMessage()
        if fields is not None:
            pairs = {"event": message, **fields}
        elif message.startswith("event="):
            # Written in this form by hand.
            head, pairs = f"{head} {message}", {}
        else:
            # Of a library.
            pairs = {"event": "log", "logger": record.name, "message": message}
        if record.exc_info:
            pairs["traceback"] = self.formatException(record.exc_info)
        return " ".join([head, *(f"{key}={_quoted(value)}" for key, value in pairs.items())])


def _quoted(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
