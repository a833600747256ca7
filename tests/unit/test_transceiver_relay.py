# SPDX-License-Identifier: Apache-2.0
"""The relay's client, against a real gRPC server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from earshot.relay.v1 import relay_pb2 as pb

from tests.unit.transceiver_world import Relay, eventually, running_relay
from transceiver import relay_stream
from transceiver.errors import RefusedError, RelayAwayError
from transceiver.relay_client import RelayClient
from transceiver.relay_target import RelayTarget

TIMEOUT = 5.0


class World:
    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.sessions: list[pb.Session] = []
        self.events: list[str] = []
        self.client = RelayClient(
            RelayTarget(relay.target),
            "t1",
            "test/1",
            snapshot=lambda: self.sessions,
            on_flow=lambda response: self.events.append(str(response.WhichOneof("message"))),
        )


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running_relay() as relay:
        made = World(relay)
        running = asyncio.create_task(made.client.run())
        await asyncio.wait_for(made.client.wait_attached(), TIMEOUT)
        yield made
        running.cancel()
        await asyncio.wait([running], timeout=TIMEOUT)


def session(number: int) -> pb.Session:
    return pb.Session(session_id=f"s{number}")


async def test_operations_of_one_moment_share_batches(world: World) -> None:
    await asyncio.gather(*(world.client.register(session(number), TIMEOUT) for number in range(5)))
    assert world.relay.batch_sizes == [2, 2, 1]
    await asyncio.gather(*(world.client.unregister(f"s{number}", TIMEOUT) for number in range(5)))
    assert not world.relay.sessions


async def test_each_gets_its_own_result(world: World) -> None:
    world.relay.refuse = pb.OperationResult(code=3, message="no such thing", field="endpoints[0]")
    results = await asyncio.gather(
        world.client.register(session(1), TIMEOUT),
        world.client.unregister("s0", TIMEOUT),
        return_exceptions=True,
    )
    assert isinstance(results[0], RefusedError)
    assert (results[0].code, results[0].field) == (3, "endpoints[0]")
    assert results[1] is None


async def test_who_waits_is_told_when_the_relay_goes_away(world: World) -> None:
    world.relay.mute = True
    waiting = asyncio.create_task(world.client.register(session(1), TIMEOUT))
    await asyncio.sleep(0.05)
    await world.relay.stop_grpc()
    with pytest.raises(RelayAwayError, match="went away"):
        await waiting
    await eventually(lambda: not world.client.attached)
    with pytest.raises(RelayAwayError, match="not attached"):
        await world.client.register(session(2), TIMEOUT)
    await world.relay.start()


async def test_a_relay_that_stopped_answering_is_attached_to_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_stream, "STALL_TIMEOUT", 0.1)
    world.relay.mute = True
    with pytest.raises(RelayAwayError, match="went away"):
        await world.client.register(session(1), TIMEOUT)
    world.relay.mute = False
    await eventually(lambda: len(world.relay.hellos) == 2 and world.client.attached)
    await world.client.register(session(2), TIMEOUT)


async def test_the_snapshot_names_every_session_in_parts(world: World) -> None:
    world.sessions = [session(number) for number in range(5)]
    await world.relay.stop_grpc()
    await world.relay.start()
    await eventually(lambda: len(world.relay.snapshots) == 2)
    assert world.relay.snapshots[1] == [f"s{number}" for number in range(5)]
