# SPDX-License-Identifier: Apache-2.0
"""What clients may send over a data channel: how long, how often, and what of it goes to a backend.

What cannot be used is answered by an event:

    {"type": "error", "reason": "not_json"}               bytes, or a text that is no JSON
    {"type": "error", "reason": "too_long", "limit": n}   more than `MESSAGE_LIMIT` bytes
    {"type": "error", "reason": "too_many", "limit": n}   more than `RATE` a second, told once a second
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from transceiver.bucket import Bucket

MESSAGE_LIMIT = 16384  # bytes
RATE = 50.0  # messages a second, for as long as it likes
BURST = 100.0  # messages at once


class MessageError(ValueError):
    """A message that is not passed on; its text is the event that says so."""


class Throttle(Bucket):
    """Which of one client's messages are taken, and when it is told that some are not."""

    def __init__(self, now: float) -> None:
        super().__init__(RATE, BURST, now)
        self._told_at = float("-inf")

    def complains(self, now: float) -> bool:
        """Whether the client is to be told now that it sends too much."""
        if now - self._told_at < 1:
            return False
        self._told_at = now
        return True


def to_backend(message: str | bytes) -> str:
    """A client's message as a backend gets it. Raises `MessageError`."""
    if size(message) > MESSAGE_LIMIT:
        raise MessageError(too_long())
    if isinstance(message, bytes):
        raise MessageError(_error("not_json"))
    try:
        load(message)
        message.encode()
    except ValueError:
        raise MessageError(_error("not_json")) from None
    return message


def load(text: str) -> Any:
    """A JSON text's value. Raises `ValueError`, whatever is wrong with it."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def size(message: str | bytes) -> int:
    """Bytes that a message takes on the wire."""
    return len(message.encode("utf-8", "surrogatepass") if isinstance(message, str) else message)


def too_long() -> str:
    """The event for a message that is too long."""
    return _error("too_long", limit=MESSAGE_LIMIT)


def too_many() -> str:
    """The event for messages that come too fast."""
    return _error("too_many", limit=int(RATE))


def _error(reason: str, **more: object) -> str:
    return json.dumps({"type": "error", "reason": reason, **more})


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
