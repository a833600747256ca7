# SPDX-License-Identifier: Apache-2.0
"""What waits to be sent to each attached transceiver.

Flow events come from the kernel at a rate that nobody here controls, and a transceiver may not read.
So they wait in a queue with an end; past that they are dropped and counted, and nobody else waits.
Answers to a transceiver's own requests never pile up: it is served one request at a time.
"""

from __future__ import annotations

import asyncio
from collections import deque

from earshot.relay.v1 import relay_pb2 as pb

from control.requests import Code, RequestError

MAX_EVENTS = 4096


class Outbox:
    """Messages on their way to one stream."""

    def __init__(self, max_events: int = MAX_EVENTS) -> None:
        self._max_events = max_events
        self._messages: deque[tuple[pb.AttachResponse, asyncio.Event | None]] = deque()
        self._filled = asyncio.Event()
        self._ended = False
        self._closed: asyncio.Future[RequestError] = asyncio.get_running_loop().create_future()

    def offer(self, event: pb.AttachResponse) -> bool:
        """Takes an event to be sent when its turn comes; False if there is no room."""
        if not self.has_room:
            return False
        self._push(event, None)
        return True

    @property
    def has_room(self) -> bool:
        """Whether an event would be taken."""
        return len(self._messages) < self._max_events

    async def answer(self, response: pb.AttachResponse) -> None:
        """Takes the answer to a request and waits until its turn has come."""
        taken = asyncio.Event()
        self._push(response, taken)
        await taken.wait()

    async def next(self) -> pb.AttachResponse | None:
        """The next message to send, once there is one; None once there will be no more."""
        while not self._ended and not self._messages:
            self._filled.clear()
            await self._filled.wait()
        if self._ended:
            return None
        message, taken = self._messages.popleft()
        if taken is not None:
            taken.set()
        return message

    def end(self) -> None:
        """What was taken last is the last; what still waits is forgotten."""
        self._ended = True
        self._filled.set()

    def close(self, reason: RequestError) -> None:
        """The stream has to end, whatever still waits."""
        if not self._closed.done():
            self._closed.set_result(reason)

    async def closed(self) -> None:
        """Raises RequestError once the stream has to end."""
        raise await self._closed

    def _push(self, message: pb.AttachResponse, taken: asyncio.Event | None) -> None:
        self._messages.append((message, taken))
        self._filled.set()


class Streams:
    """The outboxes of all attached transceivers, by their number.

    Attributes:
        dropped_events: those that there was no room for.
        ended: streams that have ended.
    """

    def __init__(self) -> None:
        self._outboxes: dict[int, Outbox] = {}
        self.dropped_events = 0
        self.ended = 0

    def open(self, owner: int) -> Outbox:
        """An outbox for the stream that now speaks for a transceiver; one that did so before has to end."""
        if former := self._outboxes.get(owner):
            former.close(RequestError(Code.ABORTED, "another stream of this name has taken over"))
        outbox = self._outboxes[owner] = Outbox()
        return outbox

    def remove(self, owner: int, outbox: Outbox) -> None:
        """The stream has ended; another one that has taken its place is left alone."""
        self.ended += 1
        if self._outboxes.get(owner) is outbox:
            del self._outboxes[owner]

    def close(self, owner: int, reason: RequestError) -> None:
        """A transceiver's stream has to end, if it has one."""
        if outbox := self._outboxes.get(owner):
            outbox.close(reason)

    def close_all(self, reason: RequestError) -> None:
        """All streams have to end."""
        for outbox in self._outboxes.values():
            outbox.close(reason)

    @property
    def is_empty(self) -> bool:
        """Whether there is nobody at all to tell."""
        return not self._outboxes

    def admits(self, owner: int) -> bool:
        """Whether there is anyone to tell of one event, who has room for it; counts it where there is none.

        To be asked before an event is put together: that costs more than all else about it.
        """
        outbox = self._outboxes.get(owner)
        if outbox is None:
            return False
        if not outbox.has_room:
            self.dropped_events += 1
            return False
        return True

    def publish(self, owner: int, event: pb.AttachResponse) -> None:
        """Sends an event to a transceiver, unless it is away or does not read."""
        outbox = self._outboxes.get(owner)
        if outbox is not None and not outbox.offer(event):
            self.dropped_events += 1
