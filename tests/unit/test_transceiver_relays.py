# SPDX-License-Identifier: Apache-2.0
"""A transceiver that is attached to several relays: all know its calls, one that fails disturbs none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import aiohttp
import pytest
import pytest_asyncio
from earshot.relay.v1 import relay_pb2 as pb

from tests.unit.test_transceiver_sdp import OFFER
from tests.unit.transceiver_client import calling
from tests.unit.transceiver_world import (
    DEADLINE,
    RELAY,
    VIP,
    Relay,
    Transceiver,
    eventually,
    metric,
    running_relay,
    running_transceiver,
)
from transceiver import relays
from transceiver.relay_client import RelayClient
from transceiver.relay_target import RelayName, RelayTarget, TargetError, targets_of

NEAR, FAR = (VIP, RELAY, "eu"), ("127.0.0.6", "127.0.0.7", "us")
SHARED = pytest.mark.asyncio(loop_scope="module")
SDP = {"Content-Type": "application/sdp"}


@dataclass
class World:
    near: Relay
    far: Relay
    transceiver: Transceiver

    @property
    def vips(self) -> list[tuple[str, int]]:
        return [(relay.vip.address, relay.vip.port) for relay in (self.near, self.far)]

    async def both_attached(self) -> None:
        await eventually(lambda: self.transceiver.log.count("event=relay_attached") >= 2)

    async def post(self, **headers: str) -> tuple[int, str]:
        async with (
            aiohttp.ClientSession() as http,
            http.post(self.transceiver.whip, data=OFFER, headers=SDP | headers) as answer,
        ):
            return answer.status, await answer.text()


@asynccontextmanager
async def worlds(*flags: str) -> AsyncIterator[World]:
    async with (
        running_relay(*NEAR) as near,
        running_relay(*FAR) as far,
        running_transceiver(near, *flags, more=[far]) as transceiver,
    ):
        made = World(near, far, transceiver)
        await made.both_attached()
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[World]:
    async with worlds("--region=eu") as made:
        yield made


@pytest.fixture
def world(shared: World) -> Iterator[World]:
    """Without the faults of the test before."""
    yield shared
    for relay in (shared.near, shared.far):
        relay.deaf = relay.mute = False
        relay.refuse = None


def candidates(answer: str) -> list[tuple[int, str, int]]:
    """Priority, address and port of each that an answer names: in each of its sections the same."""
    sections = [section.splitlines() for section in answer.split("\r\nm=")[1:]]
    of_each = [[line for line in lines if line.startswith("a=candidate:")] for lines in sections]
    assert all(lines == of_each[0] for lines in of_each)
    fields = [line.split(" ") for line in of_each[0]]
    return [(int(field[3]), field[4], int(field[5])) for field in fields]


def default_destination(answer: str) -> tuple[str, int]:
    lines = answer.splitlines()
    media = next(line for line in lines if line.startswith("m="))
    host = next(line for line in lines[lines.index(media) :] if line.startswith("c=")).split(" ")[2]
    return host, int(media.split(" ")[1])


@SHARED
async def test_both_know_a_call_and_its_end(world: World) -> None:
    async with calling(world.transceiver) as client:
        await eventually(lambda: set(world.near.sessions) == set(world.far.sessions) == {client.session_id})
        await client.restart()
        assert len(world.near.sessions[client.session_id].credentials) == 2
        await eventually(lambda: len(world.far.sessions[client.session_id].credentials) == 2)
        endpoints = world.near.sessions[client.session_id].endpoints
        assert len(endpoints) == 1, "one of a family, by however many VIPs it can be reached"
        await client.delete()
        await eventually(lambda: client.session_id not in world.near.sessions | world.far.sessions)
    assert {relay.hellos[0].region for relay in (world.near, world.far)} == {"eu"}


@SHARED
async def test_the_nearest_comes_first(world: World) -> None:
    status, answer = await world.post()
    assert status == 201, answer
    (first, *near), (second, *far) = candidates(answer)
    assert [tuple(near), tuple(far)] == world.vips
    assert first > second
    assert default_destination(answer) == world.vips[0]


@SHARED
async def test_a_call_comes_about_where_the_nearest_cannot_be_reached(world: World) -> None:
    world.near.deaf = True
    async with calling(world.transceiver) as client:
        assert world.far.media_times[client.session_id]
        assert not world.near.media_times[client.session_id]


@SHARED
@pytest.mark.parametrize("fault", ["mute", "refuse"])
async def test_a_vip_that_does_not_lead_to_the_call_is_not_told(world: World, fault: str) -> None:
    if fault == "mute":
        world.near.mute = True
    else:
        world.near.refuse = pb.OperationResult(code=8, message="full", field="session")
    status, answer = await world.post()
    assert status == 201, answer
    assert [candidate[1:] for candidate in candidates(answer)] == [world.vips[1]]
    assert default_destination(answer) == world.vips[1]
    async with calling(world.transceiver):
        world.near.mute = False


@SHARED
async def test_where_no_relay_takes_it_there_is_no_call(world: World) -> None:
    for relay in (world.near, world.far):
        relay.refuse = pb.OperationResult(code=8, message="full", field="session")
    status, answer = await world.post()
    assert (status, "full" in answer) == (503, True)


@SHARED
async def test_the_nominated_path_is_the_one_that_media_takes(world: World) -> None:
    """Checks come by both relays; what counts is the client's word, and after it which one is heard."""
    async with calling(world.transceiver) as client:
        session = client.session_id
        await eventually(lambda: bool(world.near.media_times[session] or world.far.media_times[session]))
        used, other = world.near, world.far
        if not used.media_times[session]:
            used, other = other, used
        used.deaf = True
        await client.follow(other.vip.address)
        before = len(other.media_times[session])
        await eventually(lambda: len(other.media_times[session]) > before + 20)
        count = len(used.media_times[session])
        await asyncio.sleep(0.2)
        assert len(used.media_times[session]) == count


async def test_what_a_client_is_told_follows_where_it_is(tmp_path: Path) -> None:
    file = tmp_path / "regions.toml"
    file.write_text(
        'default = "eu"\ntrusted_proxies = ["127.0.0.1/32"]\n[regions.eu]\n[regions.us]\n'
        '[header]\nname = "X-Country"\nregions = {US = "us"}\n'
        '[networks]\n"192.0.2.0/24" = "us"\n'
    )
    # The process in front, which knows who asks, is not the one that answers.
    async with worlds(f"--regions-file={file}", "--candidates=1", "--workers=2") as world:
        near, far = world.vips
        for headers, told in (
            ({}, near),
            ({"X-Country": "US"}, far),
            ({"X-Forwarded-For": "192.0.2.7"}, far),
            ({"X-Forwarded-For": "192.0.2.7, 198.51.100.1"}, near),
            ({"X-Earshot-Peer": "192.0.2.7"}, near),  # that is for the process in front to say
        ):
            status, answer = await world.post(**headers)
            assert status == 201, answer
            assert [candidate[1:] for candidate in candidates(answer)] == [told], headers
        async with aiohttp.ClientSession() as http, http.get(f"{world.transceiver.url}/metrics") as page:
            text = await page.text()
        placed = [line for line in text.splitlines() if line.startswith("earshot_transceiver_placed_offers")]
        assert sum(float(line.split()[-1]) for line in placed if 'region="us"' in line) == 2


async def test_one_that_is_away_disturbs_nobody_and_learns_all_later() -> None:
    async with worlds() as world:
        await world.far.stop_grpc()
        await eventually(lambda: "event=relay_away" in world.transceiver.log)
        async with calling(world.transceiver) as client:
            async with aiohttp.ClientSession() as http, http.get(f"{world.transceiver.url}/metrics") as page:
                text = await page.text()
            up = f'earshot_transceiver_relay_up{{region="us",relay="{world.far.target}"}}'
            assert (metric(text, up), metric(text, "earshot_transceiver_relay_attached")) == (0, 1)
            async with aiohttp.ClientSession() as http, http.get(f"{world.transceiver.url}/readyz") as ready:
                assert ready.status == 200
            # The one that is away has no part in the answer before what is there.
            status, answer = await world.post()
            assert status == 201
            assert candidates(answer)[0][1:] == world.vips[0]
            await world.far.start()
            await eventually(lambda: client.session_id in world.far.sessions)


@pytest.mark.parametrize(
    ("targets", "fault"),
    [
        (["unix:/a", "unix:/a"], "--relay: one is there twice"),
        (["unix:/a", "192.0.2.1:1"], "--relay-ca: is needed for 192.0.2.1:1"),
        (["all:192.0.2.1"], "'192.0.2.1' is neither"),
    ],
)
def test_flags_that_do_not_fit(targets: list[str], fault: str) -> None:
    with pytest.raises(TargetError, match=fault):
        targets_of(targets, None, None, None, "", False, "relay")


class Named(RelayName):
    """A name that stands for what the test says."""

    stands_for: ClassVar[list[RelayTarget]] = []

    async def look_up(self) -> list[RelayTarget]:
        return list(self.stands_for)


async def test_relays_come_and_go_with_their_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relays, "LOOK_UP_SECONDS", 0.01)
    sessions = [pb.Session(session_id="s1")]
    async with running_relay(*NEAR) as near, running_relay(*FAR) as far:
        first, second = RelayTarget(near.target), RelayTarget(far.target)
        name = Named("relays.example", 1, first)
        made = relays.Relays(
            [], [name], lambda target: RelayClient(target, "t1", "test", lambda: sessions, lambda _: None)
        )
        monkeypatch.setattr(Named, "stands_for", [])
        running = asyncio.create_task(made.run())
        try:
            await asyncio.sleep(0.05)
            assert not made.clients
            monkeypatch.setattr(Named, "stands_for", [first])
            await asyncio.wait_for(made.wait_attached(), DEADLINE)
            monkeypatch.setattr(Named, "stands_for", [second, first])
            await eventually(lambda: len(made.attached) == 2)
            assert set(far.sessions) == {"s1"}
            # Who is gone from the name stays for as long as it is there; and no answer says nothing.
            monkeypatch.setattr(Named, "stands_for", [second])
            await asyncio.sleep(0.1)
            assert len(made.attached) == 2
            await near.stop_grpc()
            await eventually(lambda: [client.target for client in made.clients] == [second])
            monkeypatch.setattr(Named, "stands_for", [])
            await asyncio.sleep(0.1)
            assert [client.target for client in made.attached] == [second]
        finally:
            running.cancel()
            await asyncio.wait([running])
            await near.start()


async def test_a_name_is_what_its_relays_certificates_are_held_to(tmp_path: Path) -> None:
    file = tmp_path / "pem"
    (name,) = targets_of(["all:localhost:9443"], file, file, file, "", False, "relay")
    assert isinstance(name, RelayName)
    found = await name.look_up()
    assert RelayTarget("127.0.0.1:9443", file, file, file, "localhost") in found
    (other,) = targets_of(["all:no.such.host.invalid:1"], file, file, file, "relay.example", False, "relay")
    assert isinstance(other, RelayName)
    assert (await other.look_up(), other.like.server_name) == ([], "relay.example")


def test_files_are_for_those_that_need_them(tmp_path: Path) -> None:
    file = tmp_path / "pem"
    local, remote = targets_of(["unix:/a", "192.0.2.1:1"], file, file, file, "relay.example", False, "relay")
    assert isinstance(local, RelayTarget)
    assert isinstance(remote, RelayTarget)
    assert (local.ca, local.server_name) == (None, "")
    assert (remote.ca, remote.server_name) == (file, "relay.example")
