# SPDX-License-Identifier: Apache-2.0
"""Events to a transceiver that does not read are dropped and counted; answers are not."""

from __future__ import annotations

import asyncio

import pytest
from earshot.relay.v1 import relay_pb2 as pb

from control.requests import Code, RequestError
from control.streams import Outbox, Streams


def numbered(number: int) -> pb.AttachResponse:
    return pb.AttachResponse(batch_result=pb.BatchResult(batch_id=number))


async def test_events_beyond_the_end_are_dropped() -> None:
    outbox = Outbox(max_events=2)
    assert [outbox.offer(numbered(n)) for n in range(4)] == [True, True, False, False]
    assert [await outbox.next() for _ in range(2)] == [numbered(0), numbered(1)]
    assert outbox.offer(numbered(5))


async def test_answer_waits_for_its_turn_even_behind_a_full_queue() -> None:
    outbox = Outbox(max_events=1)
    outbox.offer(numbered(0))
    answering = asyncio.create_task(outbox.answer(numbered(1)))
    assert await outbox.next() == numbered(0)
    await asyncio.sleep(0)
    assert not answering.done()
    assert await outbox.next() == numbered(1)
    async with asyncio.timeout(5):
        await answering


async def test_next_waits() -> None:
    outbox = Outbox()
    waiting = asyncio.create_task(outbox.next())
    await asyncio.sleep(0)
    outbox.offer(numbered(7))
    async with asyncio.timeout(5):
        assert await waiting == numbered(7)


async def test_end() -> None:
    outbox = Outbox()
    waiting = asyncio.create_task(outbox.next())
    await asyncio.sleep(0)
    outbox.end()
    async with asyncio.timeout(5):
        assert await waiting is None
    outbox.offer(numbered(1))
    assert await outbox.next() is None


async def test_second_stream_closes_the_first() -> None:
    streams = Streams()
    first = streams.open(3)
    second = streams.open(3)
    with pytest.raises(RequestError) as caught:
        await first.closed()
    assert caught.value.code == Code.ABORTED
    streams.remove(3, first)
    streams.publish(3, numbered(1))
    assert await second.next() == numbered(1)
    streams.remove(3, second)
    assert streams.is_empty
    assert not streams.admits(3)


async def test_drops_are_counted_and_the_absent_are_not() -> None:
    streams = Streams()
    streams.publish(1, numbered(0))
    assert not streams.admits(1)
    assert streams.dropped_events == 0
    streams.open(1)
    for number in range(5000):
        streams.publish(1, numbered(number))
    assert streams.dropped_events == 5000 - 4096
    # One that is not even put together counts like one that is.
    assert not streams.admits(1)
    assert streams.dropped_events == 5001 - 4096


async def test_close_all() -> None:
    streams = Streams()
    outboxes = [streams.open(number) for number in range(3)]
    streams.close_all(RequestError(Code.UNAVAILABLE, "stopping"))
    for outbox in outboxes:
        with pytest.raises(RequestError, match="stopping"):
            await outbox.closed()
