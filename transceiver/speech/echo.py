# SPDX-License-Identifier: Apache-2.0
"""The embedded conversation: it says again what it hears.

Audio goes back as it came. A data-channel message is answered by one JSON text:

    {"type": "echo", "data": ...}                       JSON text: the same value
    {"type": "echo", "text": "..."}                     any other text
    {"type": "echo", "base64": "..."}                   bytes
    {"type": "error", "reason": "too_long", "limit": n} more than `MESSAGE_LIMIT` bytes
"""

from __future__ import annotations

import base64
import json
from typing import Any

from aiortc.mediastreams import MediaStreamTrack

from transceiver.speech.conversation import Client
from transceiver.speech.messages import MESSAGE_LIMIT, load, size, too_long


class EchoConversation:
    """One call's echo (`conversation.Conversation`)."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def audio(self, source: Any) -> EchoTrack:
        return EchoTrack(source)

    def message(self, message: str | bytes) -> None:
        self._client.tell(answer(message))

    def begin(self) -> None:
        """It has nothing to prepare."""

    async def close(self, reason: str) -> None:
        """Its track ends with its source."""


class EchoTrack(MediaStreamTrack):  # type: ignore[misc]  # aiortc is untyped to mypy
    """Sends what another track receives, frame by frame; ends when that one ends."""

    kind = "audio"

    def __init__(self, source: Any) -> None:
        super().__init__()
        self._source = source

    async def recv(self) -> Any:
        return await self._source.recv()


def answer(message: str | bytes) -> str:
    """The answer to a data-channel message, whatever it is."""
    if size(message) > MESSAGE_LIMIT:
        return too_long()
    if isinstance(message, bytes):
        return json.dumps({"type": "echo", "base64": base64.b64encode(message).decode()})
    try:
        return json.dumps({"type": "echo", "data": load(message)})
    except ValueError:
        return json.dumps({"type": "echo", "text": message})
