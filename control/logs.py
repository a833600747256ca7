# SPDX-License-Identifier: Apache-2.0
"""Logs for people and for programs: one line an event, ``key=value`` with quotes where they are needed."""

from __future__ import annotations

import json
import logging
import re
import sys
import time

from telemetry.rate_limit import RateLimit

_PLAIN = re.compile(r"[^\s\"=\\]+")


def event(logger: logging.Logger, level: int, name: str, *, exc_info: bool = False, **fields: object) -> None:
    """Logs an event with its fields. Never give it a pwd."""
    logger.log(level, name, extra={"fields": fields}, exc_info=exc_info)


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
