# SPDX-License-Identifier: Apache-2.0
"""Calls whose way to the transceiver changes: rebinding, ICE restarts; and what must not disturb a call."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace

import aiohttp
import aioice.ice
import pytest
import pytest_asyncio
from earshot.relay.v1 import relay_pb2 as pb

from tests.lab.calls import binding_request
from tests.lab.restart import SDPFRAG, fragment, new_credentials
from tests.unit.test_transceiver_sdp import OFFER
from tests.unit.transceiver_client import Client, calling
from tests.unit.transceiver_world import (
    CLIENT,
    DEADLINE,
    Relay,
    Transceiver,
    eventually,
    metric,
    open_socket,
    running_relay,
    running_transceiver,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
Record = Callable[[str, object], None]

LIBWEBRTC_INTERVAL = 2.5  # seconds between checks; aioice's own is 5
STORM = 1000  # requests
LONG = 20.0  # seconds; a gap beyond it means that the call did not recover


class World(SimpleNamespace):
    relay: Relay
    transceiver: Transceiver

    async def dropped(self, reason: str) -> float:
        async with aiohttp.ClientSession() as http, http.get(f"{self.transceiver.url}/metrics") as response:
            text = await response.text()
        return metric(text, f'earshot_transceiver_dropped_packets_total{{reason="{reason}"}}')

    def ufrags(self, client: Client) -> list[str]:
        return [held.ufrag for held in self.relay.sessions[client.session_id].credentials]

    async def hears(self, client: Client, packets: int = 25) -> None:
        """Returns when so much more media has gone to the client."""
        times = self.relay.media_times[client.session_id]
        wanted = len(times) + packets
        await eventually(lambda: len(times) >= wanted)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[World]:
    async with running_relay() as relay, running_transceiver(relay) as transceiver:
        yield World(relay=relay, transceiver=transceiver)


async def test_calls_share_one_port(world: World) -> None:
    async with calling(world.transceiver), calling(world.transceiver):
        endpoints = {tuple(map(str, session.endpoints)) for session in world.relay.sessions.values()}
        assert len(world.relay.sessions) == 2
        assert len(endpoints) == 1


async def test_media_follows_a_client_whose_nat_rebinds(
    world: World, monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    monkeypatch.setattr(aioice.ice, "CONSENT_INTERVAL", LIBWEBRTC_INTERVAL)
    async with calling(world.transceiver) as client:
        await world.hears(client)
        before = await world.dropped("unknown_source")
        await world.relay.move_flows()
        await world.hears(client)
        gap = world.relay.widest_gap(client.session_id)
        record_property("rebinding_gap_seconds", round(gap, 3))
        assert gap < LONG
        assert (
            await world.dropped("unknown_source") > before
        )  # nothing is believed before it is authenticated


async def test_media_follows_when_the_relay_has_lost_its_flows(
    world: World, monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    monkeypatch.setattr(aioice.ice, "CONSENT_INTERVAL", LIBWEBRTC_INTERVAL)
    async with calling(world.transceiver) as client:
        await world.hears(client)
        world.relay.lose_flows()
        await world.hears(client)
        gap = world.relay.widest_gap(client.session_id)
        record_property("lost_flows_gap_seconds", round(gap, 3))
        assert gap < LONG


@pytest.mark.parametrize("new_port", [False, True], ids=["same_port", "new_port"])
async def test_ice_restarts_in_a_call(world: World, new_port: bool, record_property: Record) -> None:
    async with calling(world.transceiver) as client:
        (old,) = world.ufrags(client)
        etag = client.etag
        await client.restart()
        assert client.etag != etag
        assert world.ufrags(client) == [old, client.server_ufrag]
        await world.hears(client)  # still on the old path
        assert len(world.ufrags(client)) == 2
        await client.nominate(new_port)
        await eventually(lambda: world.ufrags(client) == [client.server_ufrag])
        await world.hears(client)
        gap = world.relay.widest_gap(client.session_id)
        record_property("restart_gap_seconds", round(gap, 3))
        assert gap < LONG
        assert f"event=ice_restarted call={client.session_id}" in world.transceiver.log


async def test_a_restart_that_is_overtaken_by_another(world: World) -> None:
    async with calling(world.transceiver) as client:
        (old,) = world.ufrags(client)
        await client.restart()
        _, overtaken = world.ufrags(client)
        await client.restart()
        assert world.ufrags(client) == [old, client.server_ufrag]
        assert overtaken not in world.ufrags(client)
        await client.nominate(new_port=True)
        await eventually(lambda: world.ufrags(client) == [client.server_ufrag])
        await world.hears(client)


async def test_a_restart_that_the_relay_refuses_leaves_the_call_as_it_was(world: World) -> None:
    async with calling(world.transceiver) as client:
        before, etag = world.ufrags(client), client.etag
        world.relay.refuse = pb.OperationResult(code=8, message="full")
        try:
            status, problem = await client.patch(fragment(*new_credentials()))
        finally:
            world.relay.refuse = None
        assert status == 503
        assert "full" in problem
        assert client.etag == etag
        assert world.ufrags(client) == before
        await world.hears(client)
        await client.restart()
        await client.nominate(new_port=False)
        await eventually(lambda: world.ufrags(client) == [client.server_ufrag])


async def test_a_call_that_ends_while_it_restarts_leaves_nothing() -> None:
    async with (
        running_relay() as relay,
        running_transceiver(relay, "--relay-timeout", "0.5") as transceiver,
    ):
        world = World(relay=relay, transceiver=transceiver)
        async with calling(transceiver) as client:
            session = relay.sessions[client.session_id]
            relay.mute = True
            restarting = asyncio.create_task(client.patch(fragment(*new_credentials())))
            await asyncio.sleep(0.1)
            await client.delete()
            assert (await restarting)[0] == 503
            relay.mute = False
        answers: list[bytes] = []
        stranger = await open_socket(CLIENT, lambda data, _: answers.append(data))
        (endpoint,), (held,) = session.endpoints, session.credentials
        stranger.sendto(binding_request(held.ufrag, held.pwd), (endpoint.address, endpoint.port))
        async with asyncio.timeout(DEADLINE):
            while not await world.dropped("unknown_ufrag"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        stranger.close()
        assert not answers


async def test_preconditions_of_a_change(world: World) -> None:
    async with calling(world.transceiver) as client:
        ours = fragment(*new_credentials())
        first = client.etag
        assert (await client.patch("a=end-of-candidates\r\n", first))[0] == 204
        assert (await client.patch("a=mid:0\r\na=candidate:x\r\n", "*"))[0] == 204
        assert (await client.patch(ours, '"stale"'))[0] == 412
        assert client.etag == first
        status, answer = await client.patch(ours, first)
        assert status == 200
        assert answer.startswith("a=ice-lite\r\n")
        assert "a=candidate:" in answer
        assert client.etag != first
        assert (await client.patch(ours, client.etag))[0] == 204  # these credentials it has
        assert (await client.patch("a=end-of-candidates\r\n", first))[0] == 412
        for headers, body, status in (
            ({"Content-Type": SDPFRAG}, "a=end-of-candidates", 428),
            ({"Content-Type": SDPFRAG, "If-Match": "*"}, "v=0", 422),
            ({"Content-Type": SDPFRAG, "If-Match": "*"}, "garbage", 400),
            ({"Content-Type": SDPFRAG, "If-Match": "*"}, b"a=\xff", 400),
            ({"Content-Type": "application/sdp", "If-Match": "*"}, "v=0", 415),
        ):
            async with (
                aiohttp.ClientSession() as http,
                http.patch(client.url, data=body, headers=headers) as response,
            ):
                assert response.status == status
                assert response.content_type == "application/problem+json"
        assert await client.delete() == 200
        assert (await client.patch(ours))[0] == 404


async def test_a_flood_from_nowhere_does_not_disturb_a_call(world: World, record_property: Record) -> None:
    async with calling(world.transceiver) as client:
        endpoint = world.relay.sessions[client.session_id].endpoints[0]
        stranger = await open_socket(CLIENT, lambda data, _: None)
        before = await world.dropped("unknown_source")
        for _ in range(100):
            for first in (20, 128, 200):
                stranger.sendto(bytes([first]) + os.urandom(99), (endpoint.address, endpoint.port))
            await asyncio.sleep(0.005)
        stranger.close()
        await world.hears(client)
        assert await world.dropped("unknown_source") > before
        record_property("flood_gap_seconds", round(world.relay.widest_gap(client.session_id), 3))


async def test_a_storm_of_bad_offers_does_not_disturb_a_call(world: World, record_property: Record) -> None:
    offers = ("garbage", OFFER.split("m=")[0], OFFER.replace("opus", "speex"), OFFER + "m=x\r\n" * 900)
    async with calling(world.transceiver) as client, aiohttp.ClientSession() as http:

        async def post(number: int) -> int:
            headers = {"Content-Type": "application/sdp" if number % 5 else "text/plain"}
            async with http.post(
                world.transceiver.whip, data=offers[number % len(offers)], headers=headers
            ) as response:
                return response.status

        clock = asyncio.get_running_loop().time
        started = clock()
        statuses = await asyncio.gather(*map(post, range(STORM)))
        record_property("storm_posts_per_second", round(STORM / (clock() - started)))
        assert set(statuses) == {400, 415, 422}
        await world.hears(client)
        record_property("storm_gap_seconds", round(world.relay.widest_gap(client.session_id), 3))
        assert set(world.relay.sessions) == {client.session_id}
