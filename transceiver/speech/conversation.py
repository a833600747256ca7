# SPDX-License-Identifier: Apache-2.0
"""What a call asks of whoever it talks to, and what that one may ask of the call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from telemetry.tracing import Span


class Client(Protocol):
    """A call, as a conversation sees it. No method blocks."""

    id: str
    metadata: Mapping[str, str]
    span: Span  # of its set-up, which a backend's own may go on with

    def tell(self, text: str) -> None:
        """Sends a text over the client's data channel, once it has one."""

    def hang_up(self, reason: str, *, failed: bool) -> None:
        """Ends the call: the backend wished it, or it `failed`."""


class Conversation(Protocol):
    """Whoever a call talks to."""

    def audio(self, source: Any) -> Any:
        """The track that answers the client's, which is `source` and brings `packet.OpusPacket`s."""

    def message(self, message: str | bytes) -> None:
        """The client sent it over its data channel."""

    def begin(self) -> None:
        """The client is connected."""

    async def close(self, reason: str) -> None:
        """The call is over. Returns soon, whatever the other side does."""


Converse = Callable[[Client], Conversation]  # begins a conversation with a client
