# SPDX-License-Identifier: Apache-2.0
"""Logs of one line per event, ``key=value`` (logfmt), on standard error."""

from __future__ import annotations

import json
import logging
import re
import sys
import time

from telemetry.rate_limit import RateLimit

# Of an event, in 10 s: more than calls can be set up by default, so that none of theirs is ever missing.
LINES, SECONDS = 300, 10.0

_BARE = re.compile(r"[^\s\"=]+")

_logger = logging.getLogger("earshot.transceiver")


def event(level: int, name: str, *, error: BaseException | None = None, **fields: object) -> None:
    """Logs one event. Never give it a pwd or a key.

    `error` is for defects of ours: the one case in which there is a trace, as a field.
    """
    _logger.log(level, name, extra={"fields": fields}, exc_info=error)


class LineFormatter(logging.Formatter):
    """Always one line, also of what a library says.

    A worker's name its number, which is its suffix without the dot.
    """

    def __init__(self, suffix: str = "") -> None:
        super().__init__()
        self._worker = f"worker={suffix.removeprefix('.')} " if suffix else ""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields: dict[str, object] | None = getattr(record, "fields", None)
        message = record.getMessage()
        pairs = {"event": "log", "message": message} if fields is None else {"event": message, **fields}
        if record.exc_info:
            pairs["traceback"] = self.formatException(record.exc_info)
        return (
            f"time={seconds}.{int(record.msecs):03}Z level={record.levelname} logger={record.name} "
            + self._worker
            + " ".join(f"{key}={_value(value)}" for key, value in pairs.items())
        )


def configure(level: str, suffix: str = "") -> None:
    """Sends everything to standard error; the libraries below keep to warnings.

    aiortc and aioice would log descriptions, and so passwords, if they were let.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(RateLimit(LINES, SECONDS))
    handler.setFormatter(LineFormatter(suffix))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    for library in ("aiortc", "aioice", "aiohttp.access", "grpc", "asyncio"):
        logging.getLogger(library).setLevel(logging.WARNING)


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    return text if _BARE.fullmatch(text) else json.dumps(text, ensure_ascii=False)
