# SPDX-License-Identifier: Apache-2.0
"""Logs of one line per event, ``key=value`` (logfmt), on standard error."""

from __future__ import annotations

import json
import logging
import re
import time

_BARE = re.compile(r"[^\s\"=]+")

_logger = logging.getLogger("earshot.transceiver")


def event(level: int, name: str, *, error: BaseException | None = None, **fields: object) -> None:
    """Logs one event. Never give it a pwd or a key.

    `error` is for defects of ours: the one case in which more lines follow, its trace.
    """
    if _logger.isEnabledFor(level):
        line = " ".join([f"event={name}", *(f"{key}={_value(v)}" for key, v in fields.items())])
        _logger.log(level, line, exc_info=error)


def configure(level: str, suffix: str = "") -> None:
    """Sends everything to standard error; the libraries below keep to warnings.

    A worker's lines name its number, which is its suffix without the dot.
    aiortc and aioice would log descriptions, and so passwords, if they were let.
    """
    worker = f"worker={suffix.removeprefix('.')} " if suffix else ""
    logging.basicConfig(
        level=level.upper(),
        format=f"time=%(asctime)s.%(msecs)03dZ level=%(levelname)s logger=%(name)s {worker}%(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )
    logging.Formatter.converter = time.gmtime
    for library in ("aiortc", "aioice", "aiohttp.access", "grpc", "asyncio"):
        logging.getLogger(library).setLevel(logging.WARNING)


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    return text if _BARE.fullmatch(text) else json.dumps(text, ensure_ascii=False)
