# SPDX-License-Identifier: Apache-2.0
"""What a call does with what it hears: it says it again.

Audio goes back as it came. A data-channel message is answered on the same channel by one JSON text:

    {"type": "echo", "data": ...}                       JSON text: the same value
    {"type": "echo", "text": "..."}                     any other text
    {"type": "echo", "base64": "..."}                   bytes
    {"type": "error", "reason": "too_long", "limit": n} more than `MESSAGE_LIMIT` bytes
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any, NoReturn

from aiortc.mediastreams import MediaStreamTrack

MESSAGE_LIMIT = 16384


class EchoTrack(MediaStreamTrack):  # type: ignore[misc]  # aiortc is untyped to mypy
    """Sends what another track receives, frame by frame; ends when that one ends."""

    kind = "audio"

    def __init__(self, source: Any, heard: Callable[[], None]) -> None:
        super().__init__()
        self._source = source
        self._heard = heard

    async def recv(self) -> Any:
        frame = await self._source.recv()
        self._heard()  # it was decrypted, so the client sent it
        return frame


def answer(message: str | bytes) -> str:
    """The answer to a data-channel message, whatever it is."""
    size = len(message.encode("utf-8", "surrogatepass") if isinstance(message, str) else message)
    if size > MESSAGE_LIMIT:
        return json.dumps({"type": "error", "reason": "too_long", "limit": MESSAGE_LIMIT})
    if isinstance(message, bytes):
        return json.dumps({"type": "echo", "base64": base64.b64encode(message).decode()})
    try:
        return json.dumps({"type": "echo", "data": json.loads(message, parse_constant=_refuse)})
    except (ValueError, RecursionError):
        return json.dumps({"type": "echo", "text": message})


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
