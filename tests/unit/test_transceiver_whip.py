# SPDX-License-Identifier: Apache-2.0
"""WHIP through a running transceiver: what it answers, and what the relay is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiortc import RTCPeerConnection
from earshot.relay.v1 import relay_pb2 as pb

from tests.lab.caller import place_call
from tests.unit.test_transceiver_sdp import AUDIO, OFFER
from tests.unit.transceiver_world import (
    CLIENT,
    MEDIA,
    VIP,
    Relay,
    Transceiver,
    eventually,
    metric,
    open_socket,
    running_relay,
    running_transceiver,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
SDP = {"Content-Type": "application/sdp"}
SDPFRAG = "application/trickle-ice-sdpfrag"


class World(SimpleNamespace):
    relay: Relay
    transceiver: Transceiver
    http: aiohttp.ClientSession

    async def metrics(self) -> str:
        async with self.http.get(f"{self.transceiver.url}/metrics") as response:
            return await response.text()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[World]:
    async with (
        running_relay() as relay,
        running_transceiver(relay, "--setup-timeout", "30") as transceiver,
        aiohttp.ClientSession() as http,
    ):
        yield World(relay=relay, transceiver=transceiver, http=http)


async def test_a_call_is_echoed_and_leaves_nothing_behind(world: World) -> None:
    result = await place_call(world.transceiver.whip, seconds=1.5, local_address=CLIENT)
    assert result.error is None
    assert result.connected
    assert result.audio_verified, result
    assert result.data_channel_verified, result
    assert result.packets_received > 50
    assert not world.relay.sessions
    text = await world.metrics()
    assert metric(text, 'earshot_transceiver_setups_total{result="connected"}') == 1
    assert metric(text, 'earshot_transceiver_calls_ended_total{reason="deleted"}') == 1
    assert metric(text, 'earshot_transceiver_flow_events_total{event="flow_bound"}') == 1
    assert metric(text, 'earshot_transceiver_packets_total{direction="in"}') > 75
    assert metric(text, "earshot_transceiver_relay_attached") == 1
    assert "event=flow_bound" in world.transceiver.log


async def test_the_answer_names_the_vip_and_nothing_else(world: World) -> None:
    async with world.http.post(world.transceiver.whip, data=OFFER, headers=SDP) as response:
        answer = await response.text()
        location = response.headers["Location"]
        assert response.status == 201
        assert response.content_type == "application/sdp"
        assert response.headers["ETag"].startswith('"')
        assert response.headers["Accept-Patch"] == "application/trickle-ice-sdpfrag"
    lines = answer.split("\r\n")
    candidates = {line for line in lines if line.startswith("a=candidate")}
    assert len(candidates) == 1
    assert f" {VIP} {world.relay.vip.port} typ host" in candidates.pop()
    assert MEDIA not in answer
    assert "a=ice-lite" in lines
    assert {line for line in lines if line.startswith("a=setup")} == {"a=setup:passive"}
    ufrag = next(line.partition(":")[2] for line in lines if line.startswith("a=ice-ufrag"))
    session = world.relay.sessions[location.rpartition("/")[2]]
    assert [credential.ufrag for credential in session.credentials] == [ufrag]
    assert len(ufrag) == 8
    assert len(session.credentials[0].pwd) >= 24
    assert [endpoint.address for endpoint in session.endpoints] == [MEDIA]
    assert session.credentials[0].pwd not in world.transceiver.log
    async with world.http.delete(world.transceiver.url + location) as response:
        assert response.status == 200
    assert session.session_id not in world.relay.sessions
    async with world.http.delete(world.transceiver.url + location) as response:
        assert response.status == 404


async def test_a_session_that_was_deleted_is_gone(world: World) -> None:
    """Its id is nobody's: whatever is asked of it is answered like that of a session that never was."""
    async with world.http.post(world.transceiver.whip, data=OFFER, headers=SDP) as response:
        url = world.transceiver.url + response.headers["Location"]
        etag = response.headers["ETag"]
    async with world.http.delete(url) as response:
        assert response.status == 200
    added = len(world.relay.operations)
    restart = f"a=ice-ufrag:abcd\r\na=ice-pwd:{'p' * 24}\r\n"
    for if_match, fragment in (
        (etag, restart),
        ("*", restart),
        (etag, "a=end-of-candidates\r\n"),
        (None, restart),
    ):
        headers = {"Content-Type": SDPFRAG} | ({"If-Match": if_match} if if_match else {})
        async with world.http.patch(url, data=fragment, headers=headers) as response:
            assert response.status == 404
            assert response.content_type == "application/problem+json"
            assert "ended" in (await response.json(content_type=None))["detail"]
    assert len(world.relay.operations) == added
    assert not world.relay.sessions


async def test_nothing_is_sent_to_addresses_that_the_offer_names(world: World) -> None:
    received: list[bytes] = []
    transport = await open_socket(CLIENT, lambda data, _: received.append(data))
    port = transport.get_extra_info("sockname")[1]
    offer = OFFER.replace("192.0.2.7 50000", f"{CLIENT} {port}")
    assert f"{CLIENT} {port}" in offer
    async with world.http.post(world.transceiver.whip, data=offer, headers=SDP) as response:
        assert response.status == 201
        location = response.headers["Location"]
    await asyncio.sleep(0.3)  # a full ICE agent checks within 50 ms
    transport.close()
    assert not received
    async with world.http.delete(world.transceiver.url + location) as response:
        assert response.status == 200


async def test_an_aiortc_offer_of_data_alone_is_answered(world: World) -> None:
    peer = RTCPeerConnection()
    peer.createDataChannel("only")
    offer = await peer.createOffer()
    # Not gathered: aiortc's offer has no candidates yet, as with trickle ICE.
    gatherer = peer.sctp.transport.transport.iceGatherer.getLocalParameters()
    text = offer.sdp
    assert gatherer.usernameFragment in text
    await peer.close()
    async with world.http.post(world.transceiver.whip, data=text, headers=SDP) as response:
        assert response.status == 201, await response.text()
        assert "m=application" in await response.text()
        location = response.headers["Location"]
    async with world.http.delete(world.transceiver.url + location):
        pass


REFUSED: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "JSON": ("POST", "/whip", {"json": {}}, 415),
    "no content type": ("POST", "/whip", {"data": b"v=0", "skip_auto_headers": ["Content-Type"]}, 415),
    "garbage": ("POST", "/whip", {"data": "garbage", "headers": SDP}, 400),
    "not UTF-8": ("POST", "/whip", {"data": b"v=0\xff", "headers": SDP}, 400),
    "empty": ("POST", "/whip", {"data": b"", "headers": SDP}, 400),
    "too large": ("POST", "/whip", {"data": OFFER + "a=x\r\n" * 20000, "headers": SDP}, 413),
    "video": ("POST", "/whip", {"data": OFFER.replace("m=audio", "m=video"), "headers": SDP}, 422),
    "unknown codecs": (
        "POST",
        "/whip",
        {"data": OFFER.replace("opus/48000/2", "wonder/48000/2"), "headers": SDP},
        422,
    ),
    "no media": ("POST", "/whip", {"data": OFFER.split("m=")[0], "headers": SDP}, 422),
    "ten media sections": (
        "POST",
        "/whip",
        {"data": OFFER + "".join(f"{AUDIO}a=mid:{number}\r\n" for number in range(2, 10)), "headers": SDP},
        422,
    ),
    "SDP that aiortc trips over": (
        "POST",
        "/whip",
        {"data": OFFER.replace("a=rtcp-mux", "a=ssrc:x\r\na=extmap:1"), "headers": SDP},
        400,
    ),
    "unknown session": ("DELETE", "/whip/sessions/t1/0123", {}, 404),
    "unknown path": ("GET", "/nothing", {}, 404),
    "GET of the endpoint": ("GET", "/whip", {}, 405),
    "PUT of the endpoint": ("PUT", "/whip", {"data": b""}, 405),
    "PATCH of an unknown session": (
        "PATCH",
        "/whip/sessions/t1/0123",
        {"data": b"a=x", "headers": {"Content-Type": "application/trickle-ice-sdpfrag", "If-Match": "*"}},
        404,
    ),
    "PATCH of the endpoint": ("PATCH", "/whip", {"data": b""}, 405),
    "PUT of a session": ("PUT", "/whip/sessions/t1/0123", {"data": b""}, 405),
    "POST to a session": ("POST", "/whip/sessions/t1/0123", {"data": OFFER, "headers": SDP}, 405),
    "GET of a session": ("GET", "/whip/sessions/t1/0123", {}, 405),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_cannot_be_served_gets_problem_details(world: World, name: str) -> None:
    method, path, arguments, status = REFUSED[name]
    async with world.http.request(method, world.transceiver.url + path, **arguments) as response:
        assert response.status == status
        assert response.content_type == "application/problem+json"
        problem = await response.json(content_type="application/problem+json")
        assert problem["status"] == status
        assert problem["title"]
        assert problem["detail"]
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        if status == 405:
            assert response.headers["Allow"]
    assert not world.relay.sessions


@pytest.mark.parametrize(("path", "method"), [("/whip", "POST"), ("/whip/sessions/t1/0123", "PATCH")])
async def test_options_tells_browsers_what_is_allowed(world: World, path: str, method: str) -> None:
    async with world.http.options(world.transceiver.url + path, headers={"Origin": "http://x"}) as response:
        assert response.status == 204
        assert method in response.headers["Access-Control-Allow-Methods"]
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        accepted = {"POST": ("Accept-Post", "application/sdp"), "PATCH": ("Accept-Patch", SDPFRAG)}
        name, value = accepted[method]
        assert response.headers[name] == value


@pytest.mark.parametrize(
    "spoil", [lambda relay: setattr(relay, "refuse", pb.OperationResult(code=8, message="full"))]
)
async def test_a_refused_registration_undoes_the_call(world: World, spoil: Callable[[Relay], None]) -> None:
    spoil(world.relay)
    try:
        async with world.http.post(world.transceiver.whip, data=OFFER, headers=SDP) as response:
            assert response.status == 503
            assert response.headers["Retry-After"]
            assert "full" in (await response.json(content_type=None))["detail"]
    finally:
        world.relay.refuse = None
    await eventually(lambda: world.relay.operations[-1][0] == "remove")
    assert metric(await world.metrics(), 'earshot_transceiver_sessions{state="connecting"}') == 0


async def test_many_offers_at_once_share_batches_and_all_get_answers(world: World) -> None:
    world.relay.batch_sizes.clear()

    async def post() -> str:
        async with world.http.post(world.transceiver.whip, data=OFFER, headers=SDP) as response:
            assert response.status == 201
            return response.headers["Location"]

    locations = await asyncio.gather(*(post() for _ in range(12)))
    assert len(set(locations)) == len(world.relay.sessions) == 12
    assert max(world.relay.batch_sizes) <= world.relay.max_batch
    await asyncio.gather(*(world.http.delete(world.transceiver.url + location) for location in locations))
    assert not world.relay.sessions


async def test_health_says_attached(world: World) -> None:
    async with world.http.get(f"{world.transceiver.url}/healthz") as response:
        assert response.status == 200
