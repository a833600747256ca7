# SPDX-License-Identifier: Apache-2.0
"""Relays that share a directory: a transceiver is attached to one of them, and goes to the next in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import pytest
from earshot.relay.v1 import relay_pb2 as pb

from tests.unit.test_transceiver_relays import SDP, Named, candidates
from tests.unit.test_transceiver_sdp import OFFER
from tests.unit.transceiver_client import calling
from tests.unit.transceiver_world import (
    DEADLINE,
    Relay,
    eventually,
    metric,
    running_relay,
    running_transceiver,
)
from transceiver import places, relay_client, relays
from transceiver.errors import RefusedError, RelayAwayError, RelayError
from transceiver.ingresses import Ingresses, RegionsFile
from transceiver.places import Places
from transceiver.relay_client import RelayClient
from transceiver.relay_target import RelayTarget
from transceiver.relays import Relays

ADDRESSES = [(f"127.0.0.{number}", f"127.0.0.{number + 1}", "eu") for number in (4, 6, 8)]
SESSION = pb.Session(session_id="s1")


@dataclass
class World:
    """Three relays, and a transceiver that knows them all."""

    relays: list[Relay]
    sessions: list[pb.Session] = field(default_factory=lambda: [SESSION])
    name: str = "t1"

    def __post_init__(self) -> None:
        shared = Places(self.name)
        self.clients = [
            RelayClient(
                RelayTarget(relay.target),
                self.name,
                "test",
                lambda: self.sessions,
                lambda _: None,
                places=shared,
            )
            for relay in self.relays
        ]
        self.all = Relays(self.clients)

    @property
    def attached(self) -> list[Relay]:
        return [relay for relay, client in zip(self.relays, self.clients, strict=True) if client.attached]

    def count(self) -> int:
        """Attachments so far, of all relays."""
        return sum(len(relay.hellos) for relay in self.relays)

    async def until(self, attached: int, serving: int) -> Sequence[Relay]:
        """Returns once so many are attached to, and serve."""
        await eventually(lambda: (len(self.all.attached), len(self.all.serving)) == (attached, serving))
        return self.attached

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        running = asyncio.create_task(self.all.run())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.wait([running], timeout=DEADLINE)


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(places, "LOOK_SECONDS", 0.05)
    async with AsyncExitStack() as stack:
        yield World([await stack.enter_async_context(running_relay(*one)) for one in ADDRESSES])


async def test_one_of_a_directory_is_attached_to_and_the_others_stand_by(world: World) -> None:
    Relay.share("d", *world.relays)
    async with world.running():
        (first,) = await world.until(1, 3)
        await asyncio.sleep(0.5)  # a loop would have gone round many times
        assert world.count() == 1
        assert [relay.streams for relay in world.relays] == [int(relay is first) for relay in world.relays]
        assert set(first.sessions) == {"s1"}
        named = {
            (vip.address.compressed, vip.port)
            for vip in Ingresses(RegionsFile(None), world.all, most=3).near("")
        }
        assert named == {(relay.vip.address, relay.vip.port) for relay in world.relays}, "all can bind"


async def test_the_next_takes_the_place_of_one_that_breaks_which_stands_by_when_it_is_back(
    world: World,
) -> None:
    Relay.share("d", *world.relays)
    async with world.running():
        (first,) = await world.until(1, 3)
        await first.stop_grpc()
        await eventually(lambda: world.attached != [first])
        await world.all.settle(DEADLINE)  # as offers do
        assert len(world.attached) == 1
        (second,) = await world.until(1, 2)
        assert set(second.sessions) == {"s1"}
        await first.start()
        assert await world.until(1, 3) == [second]
        await second.stop_grpc()
        await eventually(lambda: bool(world.attached) and world.attached != [second])
        assert world.count() == 3
        await second.start()


async def test_whoever_drains_makes_way_as_long_as_another_one_takes_sessions(world: World) -> None:
    Relay.share("d", *world.relays)
    async with world.running():
        (first,) = await world.until(1, 3)
        first.drain(True)
        await eventually(lambda: bool(world.attached) and world.attached != [first])
        (second,) = await world.until(1, 3)
        (third,) = (relay for relay in world.relays if relay not in (first, second))
        third.drain(True)
        await asyncio.sleep(0.2)  # until it was looked at, several times
        second.drain(True)
        await asyncio.sleep(0.5)
        assert (world.attached, world.count()) == ([second], 2), "there is none that is better"
        third.drain(False)
        await eventually(lambda: world.attached == [third])
        await world.until(1, 3)
        assert world.count() == 3


async def test_whoever_does_not_answer_makes_way_also_where_nobody_asks_anything(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_client, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(relay_client, "LOOK_TIMEOUT", 1.0)
    Relay.share("d", *world.relays)
    async with world.running():
        (first,) = await world.until(1, 3)
        first.frozen = True
        await eventually(lambda: bool(world.attached) and world.attached != [first])
        await world.until(1, 2)
        first.frozen = False
        await world.until(1, 3)
        assert world.count() == 2


@pytest.mark.parametrize("fault", ["mute", "full"])
async def test_whoever_takes_no_sessions_makes_way(world: World, fault: str) -> None:
    Relay.share("d", *world.relays)
    async with world.running():
        (first,) = await world.until(1, 3)
        if fault == "mute":
            first.mute = True
        else:
            first.refuse = pb.OperationResult(code=8, message="the session table is full")
        with pytest.raises(RelayAwayError if fault == "mute" else RefusedError):
            await world.all.register(pb.Session(session_id="s2"), 0.2)
        await eventually(lambda: bool(world.attached) and world.attached != [first])
        (second,) = await world.until(1, 3)
        await world.all.register(pb.Session(session_id="s2"), DEADLINE)
        assert set(second.sessions) == {"s1", "s2"}
        # All refuse: it stays where it is, and does not go round.
        for relay in world.relays:
            relay.refuse = pb.OperationResult(code=8, message="the session table is full")
        count = world.count()
        for number in range(6):
            with pytest.raises(RelayError):  # or it is just between two
                await world.all.register(pb.Session(session_id=f"f{number}"), DEADLINE)
            await asyncio.sleep(0.1)
        assert world.count() <= count + 1, "the third one, once"


async def test_where_one_leads_the_vips_of_those_that_stand_by_lead_too(world: World) -> None:
    """And do not where it refuses, though another directory's relay takes the session."""
    Relay.share("d", *world.relays[:2])
    async with world.running():
        await world.until(2, 3)
        vips = [vip for client in world.clients for vip in client.vips]
        assert len(vips) == 3
        assert await world.all.register(pb.Session(session_id="s2"), DEADLINE, vips=vips) == vips
        for relay in world.relays[:2]:
            relay.refuse = pb.OperationResult(code=3, message="no such thing")
        assert await world.all.register(pb.Session(session_id="s3"), DEADLINE, vips=vips) == vips[2:]


async def test_of_a_names_relays_too_one_is_attached_to(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relays, "LOOK_UP_SECONDS", 0.01)
    Relay.share("d", *world.relays)
    by_target = {client.target: client for client in world.clients}
    monkeypatch.setattr(Named, "stands_for", list(by_target))
    world.all = Relays([], [Named("relays.example", 1, next(iter(by_target)))], by_target.__getitem__)
    async with world.running():
        (first,) = await world.until(1, 3)
        assert world.count() == 1
        # One that stands by is kept as long as it answers, whatever the name says; then it is let go.
        gone = next(relay for relay in world.relays if relay is not first)
        left = [one for one in by_target if str(one) != gone.target]
        monkeypatch.setattr(Named, "stands_for", left)
        await asyncio.sleep(0.2)
        await world.until(1, 3)
        await gone.stop_grpc()
        await eventually(lambda: {client.target for client in world.all.clients} == set(left))
        assert world.attached == [first]
        await gone.start()


async def test_relays_without_a_directory_are_all_attached_to(world: World) -> None:
    world.relays[0].old = True
    Relay.share("a", world.relays[1])
    Relay.share("b", world.relays[2])
    async with world.running():
        assert await world.until(3, 3) == world.relays


async def test_what_was_not_known_when_it_was_asked_is_found_out(world: World) -> None:
    """The directory is away when the relays are asked, and comes back: the later stream ends the others."""
    async with world.running():
        await world.until(3, 3)
        Relay.share("d", *world.relays)
        await world.relays[0].stop_grpc()
        await world.relays[0].start()
        await world.until(1, 3)
        count = world.count()
        await asyncio.sleep(0.5)
        assert world.count() == count <= 6


async def test_many_transceivers_spread_over_the_relays(world: World) -> None:
    """Each has its own order, the same each time, which holds where all answer."""
    Relay.share("d", *world.relays)
    first: dict[str, str] = {}
    for name in (*"abcdefgh", *"abcdefgh"):
        for relay in world.relays:
            relay.hellos.clear()
        one = World(world.relays, name=name)
        async with one.running():
            (relay,) = await one.until(1, 3)
            assert first.setdefault(name, relay.target) == relay.target
    assert len(set(first.values())) > 1


async def test_a_process_says_where_it_is_and_goes_on_where_its_relay_ends() -> None:
    async with (
        running_relay(*ADDRESSES[0]) as near,
        running_relay(*ADDRESSES[1]) as far,
    ):
        Relay.share("d", near, far)
        async with running_transceiver(near, more=[far]) as transceiver:
            await eventually(lambda: "event=relay_standby" in transceiver.log)
            holder, other = (near, far) if near.streams else (far, near)
            async with aiohttp.ClientSession() as http:

                async def up() -> list[float]:
                    async with http.get(f"{transceiver.url}/metrics") as page:
                        text = await page.text()
                    labels = [f'{{region="eu",relay="{one.target}"}}' for one in (holder, other)]
                    assert metric(text, "earshot_transceiver_relay_attached") == 1
                    return [metric(text, f"earshot_transceiver_relay_up{one}") for one in labels]

                assert await up() == [1, 1]
                async with http.post(transceiver.whip, data=OFFER, headers=SDP) as answer:
                    assert answer.status == 201
                    told = {candidate[1:] for candidate in candidates(await answer.text())}
                assert told == {(one.vip.address, one.vip.port) for one in (near, far)}
                other.deaf = True  # to its client; the one that is attached to knows the call
                async with calling(transceiver) as client:
                    assert client.session_id in holder.sessions
                    await holder.stop_grpc()
                    await eventually(lambda: client.session_id in other.sessions)
                    assert await up() == [0, 1]
                    async with http.get(f"{transceiver.url}/healthz") as health:
                        assert health.status == 200
                    count = len(holder.media_times[client.session_id])
                    await eventually(lambda: len(holder.media_times[client.session_id]) > count + 20)
                await holder.start()
