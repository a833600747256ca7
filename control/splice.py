# SPDX-License-Identifier: Apache-2.0
"""Two sockets as one connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

# What may wait for each side: past that its source is not read, so that whoever does not read
# is noticed at the other end, by gRPC's flow control, and holds no more memory here.
_HIGH_WATER = 128 << 10
# When one side has ended, the other has so long to read what still waits for it.
_LINGER_SECONDS = 2.0


class _Half(asyncio.Protocol):
    """One of the two sockets; what comes in is written to the other."""

    def __init__(self, ended: Callable[[], None]) -> None:
        self.other: _Half
        self.transport: Any = None
        self.is_open = True
        self._early = b""  # came before there was anyone to pass it to
        self._ended = ended

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.set_write_buffer_limits(high=_HIGH_WATER)
        transport.write(self.other._early)
        self.other._early = b""
        if not self.other.is_open:
            transport.close()

    def data_received(self, data: bytes) -> None:
        if self.other.transport is None:
            self._early += data
        else:
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        self.other.transport.resume_reading()

    def eof_received(self) -> bool:
        """HTTP/2 knows no half-open connections: the end of one direction is that of both."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        if self.other.is_open and self.other.transport is not None:
            self.other.transport.close()
            asyncio.get_running_loop().call_later(_LINGER_SECONDS, self.other.transport.abort)
        self._ended()


class Splice:
    """Passes on what comes, both ways, until one side ends; then ends the other."""

    def __init__(self, outer: _Half, inner: _Half) -> None:
        self._halves = outer, inner

    @classmethod
    async def join(
        cls,
        outer: socket.socket,
        inner: socket.socket,
        inner_ends: Callable[[], object],
        ended: Callable[[Splice], None],
    ) -> Splice:
        """Takes two connected sockets over, and begins.

        Args:
            inner_ends: called when the inner socket is about to be closed.
            ended: called when both have ended.
        """

        def half_ended() -> None:
            if not (left.is_open or right.is_open):
                ended(splice)

        def inner_ended() -> None:
            inner_ends()
            half_ended()

        left, right = _Half(half_ended), _Half(inner_ended)
        left.other, right.other = right, left
        splice = cls(left, right)
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: left, sock=outer)
        await loop.create_unix_connection(lambda: right, sock=inner)
        return splice

    def close(self) -> None:
        """Ends both, whatever still waits."""
        for half in self._halves:
            half.transport.abort()
