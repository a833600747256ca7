# SPDX-License-Identifier: Apache-2.0
"""A Redis stream of sealed messages: bounded, and in one order for everyone who reads it.

A reader that falls behind, or meets a Redis that has lost something, misses messages and is not told so: what
must not be missed is numbered by who uses this, or said again.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import NamedTuple

from control.directory.errors import AwayError, Refusal, Refusals, SealError
from control.directory.link import CALL_SECONDS, Link
from control.directory.seal import Sealer
from control.logs import event

PREFIX = "earshot"
BEGINNING = "0-0"
FIELD = b"m"
MOST = 8192  # messages that are kept
BLOCK_SECONDS = 1.0  # after which a reader that has heard nothing looks whether its place still exists
PAGE = 64  # messages that are read at once

_log = logging.getLogger(__name__)


class Message(NamedTuple):
    """One message as its reader sees it.

    Attributes:
        position: where it stands; every later one has a higher one (`place_of`).
        instance, counter: of the daemon that has sealed it: seal.py.
    """

    position: str
    payload: bytes
    instance: bytes
    counter: int


def place_of(position: str) -> tuple[int, int]:
    """A position, to be compared: milliseconds by Redis's clock, and a number within them."""
    milliseconds, _, number = position.partition("-")
    return int(milliseconds), int(number)


class Journal:
    """One stream, to be written to and read from."""

    def __init__(self, link: Link, sealer: Sealer, refusals: Refusals, name: str, most: int = MOST) -> None:
        self.key = f"{PREFIX}:{name}"
        self._link = link
        self._sealer = sealer
        self._refusals = refusals
        self._most = most

    @property
    def most(self) -> int:
        """About how many messages are kept."""
        return self._most

    def seal(self, payload: bytes) -> bytes:
        """A message of this stream, for who writes it by a script of their own."""
        return self._sealer.seal(self.key.encode(), payload)

    async def append(self, payload: bytes) -> str:
        """Writes a message, and returns its position. Raises AwayError: perhaps it was not written."""
        return await self.put(self.seal(payload))

    async def put(self, sealed: bytes) -> str:
        """Likewise, one that is sealed already."""
        fields = {FIELD: sealed}
        position: bytes = await self._link.call(
            lambda redis: redis.xadd(self.key, fields, maxlen=self._most, approximate=True)
        )
        return position.decode()

    async def last(self) -> str:
        """The position of the last message there is; raises AwayError."""
        found = await self._link.call(lambda redis: redis.xrevrange(self.key, count=1))
        return found[0][0].decode() if found else BEGINNING

    async def read(self, after: str, block_seconds: float = BLOCK_SECONDS) -> tuple[list[Message], str]:
        """Messages after a position, and where to read on; waits a while for the first one.

        What cannot be believed is counted and left out. Raises AwayError.
        """
        found = await self._link.call(
            lambda redis: redis.xread({self.key: after}, count=PAGE, block=int(block_seconds * 1000)),
            block_seconds + CALL_SECONDS,
        )
        if not found:
            return [], await self._still(after)
        entries = found[0][1]
        messages = [self._opened(position.decode(), fields) for position, fields in entries]
        return [message for message in messages if message is not None], entries[-1][0].decode()

    async def tail(self, after: str | None = None) -> AsyncIterator[list[Message]]:
        """All messages after a position, or from now on, as they come; goes on through every failure.

        A list is empty where nothing came for a while, which is also said after a failure: whoever counts on
        the others' saying something can tell that it could have been heard.
        """
        while True:
            try:
                if after is None:
                    after = await self.last()
                messages, after = await self.read(after)
            except AwayError:
                await self._link.pause()
                continue
            yield messages

    async def _still(self, after: str) -> str:
        """Where to read on when nothing has come: from the beginning, if the stream ends before our place.

        So it does when Redis was restarted empty, or an older copy of it has taken over.
        """
        last = await self.last()
        if place_of(last) >= place_of(after):
            return after
        event(_log, logging.WARNING, "directory_rewound", stream=self.key, read=after, last=last)
        return BEGINNING

    def _opened(self, position: str, fields: dict[bytes, bytes]) -> Message | None:
        try:
            sealed = fields.get(FIELD)
            if sealed is None:
                raise SealError(Refusal.MALFORMED, "has no message in it")
            payload, instance, counter = self._sealer.unseal(self.key.encode(), sealed)
        except SealError as error:
            self._refusals.add(error.why, f"{self.key} {position}", error)
            return None
        return Message(position, payload, instance, counter)
