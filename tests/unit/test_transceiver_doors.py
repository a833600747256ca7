# SPDX-License-Identifier: Apache-2.0
"""The transceiver's doors: tokens, other sites' pages, HTTPS; and floods, beside which calls go on."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from pathlib import Path

import aiohttp
import pytest

from tests.lab.caller import place_call
from tests.unit.speech_world import backend, read_on, ready, talking
from tests.unit.test_transceiver_sdp import OFFER
from tests.unit.transceiver_world import CLIENT, eventually, running_relay, running_transceiver

SDP = {"Content-Type": "application/sdp"}
SDPFRAG = {"Content-Type": "application/trickle-ice-sdpfrag", "If-Match": "*"}
POSTS = 1000


async def test_without_a_token_nobody_calls_changes_or_ends_a_session(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("secret\n")
    good = {"Authorization": "Bearer secret"}
    async with (
        running_relay() as relay,
        running_transceiver(relay, "--auth-token-file", str(tokens)) as transceiver,
        aiohttp.ClientSession(transceiver.url) as http,
    ):
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            async with http.post("/whip", data=OFFER, headers=SDP | headers) as response:
                assert response.status == 401
                assert response.headers["WWW-Authenticate"] == "Bearer"
                assert (await response.json())["status"] == 401
        assert not relay.sessions
        async with http.post("/whip", data=OFFER, headers=SDP | good) as response:
            assert response.status == 201
            session = response.headers["Location"]
        for method, more in (("PATCH", SDPFRAG), ("DELETE", {})):
            async with http.request(method, session, headers=more) as response:
                assert response.status == 401
        assert len(relay.sessions) == 1
        async with http.options("/whip") as response:  # browsers ask without it
            assert response.status == 204
        async with http.delete(session, headers=good) as response:
            assert response.status == 200
        assert "secret" not in transceiver.log


async def test_only_pages_of_named_origins_may_call() -> None:
    friend, stranger = "https://app.example", "https://evil.example"
    async with (
        running_relay() as relay,
        running_transceiver(relay, "--cors-origin", friend) as transceiver,
        aiohttp.ClientSession(transceiver.url) as http,
    ):
        for origin, allowed in ((friend, friend), (stranger, None)):
            for method, path in (("OPTIONS", "/whip"), ("POST", "/whip"), ("GET", "/nothing")):
                async with http.request(method, path, headers={"Origin": origin}) as response:
                    assert response.headers.get("Access-Control-Allow-Origin") == allowed
                    assert response.headers["Vary"] == "Origin"


async def test_the_page_is_there_unless_it_is_not_wanted() -> None:
    async with running_relay() as relay:
        async with (
            running_transceiver(relay, "--workers", "2") as transceiver,
            aiohttp.ClientSession(transceiver.url) as http,
        ):
            async with http.get("/") as response:
                assert response.status == 200
                assert response.content_type == "text/html"
                assert "default-src 'none'" in response.headers["Content-Security-Policy"]
            async with http.get("/page/call.js") as response:
                assert response.status == 200
                assert response.content_type in ("text/javascript", "application/javascript")
            async with http.get("/page/../main.py") as response:
                assert response.status == 404
        async with (
            running_transceiver(relay, "--no-page") as transceiver,
            aiohttp.ClientSession(transceiver.url) as http,
            http.get("/") as response,
        ):
            assert response.status == 404


@pytest.fixture
def own_certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, signed by itself, and its key."""
    certificate, key = tmp_path / "crt", tmp_path / "key"
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1")
    made = ("-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    files = ("-keyout", str(key), "-out", str(certificate))
    subprocess.run(["openssl", "req", *made, *subject, *files], check=True, capture_output=True, timeout=10)
    return certificate, key


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_https(own_certificate: tuple[Path, Path], workers: str) -> None:
    certificate, key = own_certificate
    flags = ("--http-certificate", str(certificate), "--http-key", str(key), "--workers", workers)
    async with running_relay() as relay, running_transceiver(relay, *flags) as transceiver:
        context = ssl.create_default_context(cafile=certificate)
        url = transceiver.url.replace("http:", "https:")
        async with aiohttp.ClientSession() as http:
            async with http.post(f"{url}/whip", data=OFFER, headers=SDP, ssl=context) as response:
                assert response.status == 201
            with pytest.raises(aiohttp.ClientError):
                await http.get(f"{transceiver.url}/healthz")


async def test_a_query_that_is_too_much_is_refused() -> None:
    async with (
        running_relay() as relay,
        running_transceiver(relay) as transceiver,
        aiohttp.ClientSession(transceiver.url) as http,
    ):
        for query in ("&".join(f"k{n}=v" for n in range(17)), f"k={'v' * 257}"):
            async with http.post(f"/whip?{query}", data=OFFER, headers=SDP) as response:
                assert response.status == 400
        assert not relay.sessions


async def test_a_call_hears_nothing_of_a_thousand_offers() -> None:
    """As fast as one client can; what is too much is told when to come again."""
    async with (
        running_relay() as relay,
        running_transceiver(relay, "--max-setups", "5", "--setup-timeout", "2") as transceiver,
        aiohttp.ClientSession(transceiver.url, connector=aiohttp.TCPConnector(limit=20)) as http,
    ):
        call = asyncio.create_task(place_call(transceiver.whip, seconds=5.0, local_address=CLIENT))
        await eventually(lambda: "event=call_connected" in transceiver.log)

        async def post() -> int:
            async with http.post("/whip", data=OFFER, headers=SDP) as response:
                if response.status == 503:
                    assert int(response.headers["Retry-After"]) >= 1
                return response.status

        statuses = await asyncio.gather(*(post() for _ in range(POSTS)))
        assert set(statuses) == {201, 503}
        assert statuses.count(201) < 100
        result = await call
        assert result.audio_verified, result
        assert result.error is None
        await eventually(lambda: not relay.sessions)


async def test_a_message_of_10_mb_is_too_long_and_no_other_call_notices() -> None:
    """By a client that does not mind what the answer says of the longest message."""
    async with (
        running_relay() as relay,
        running_transceiver(relay) as transceiver,
        talking(transceiver) as rude,
    ):
        await eventually(lambda: "event=call_connected" in transceiver.log)
        other = asyncio.create_task(place_call(transceiver.whip, seconds=2.0, local_address=CLIENT))
        rude.send_whatever_is_announced(b"\0" * 10_000_000)
        rude.send("[]")  # in order: it comes after the other one has
        async with asyncio.timeout(60):
            while rude.events[-1:] != [{"type": "echo", "data": []}]:  # noqa: ASYNC110  # as in `eventually`
                await asyncio.sleep(0.05)
        assert rude.events[:-1] == [{"type": "error", "reason": "too_long", "limit": 16384}]
        result = await other
        assert result.audio_verified, result
        assert result.error is None


async def test_a_flood_of_messages_is_answered_by_a_word_and_no_other_call_notices() -> None:
    async def script(context: object) -> None:
        await ready(context)
        await read_on(context)

    async with (
        backend(script) as (target, _),
        running_relay() as relay,
        running_transceiver(relay, "--backend", target) as transceiver,
        talking(transceiver) as flooding,
        talking(transceiver) as other,
    ):
        await flooding.told(state="ready")
        await other.told(state="ready")
        for _ in range(400):
            flooding.send('{"flood": true}')
        assert (await flooding.told(type="error", reason="too_many"))["limit"] == 50
        flooding.send("x" * 200_000)
        flooding.send(b"\0" * 100)
        other.send("[")
        await other.told(type="error", reason="not_json")
        assert [event["type"] for event in other.events] == ["session", "error"]
