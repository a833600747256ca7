# SPDX-License-Identifier: Apache-2.0
"""The transceiver's doors: tokens, other sites' pages, HTTPS."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import aiohttp
import pytest

from tests.unit.test_transceiver_sdp import OFFER
from tests.unit.transceiver_world import running_relay, running_transceiver

SDP = {"Content-Type": "application/sdp"}
SDPFRAG = {"Content-Type": "application/trickle-ice-sdpfrag", "If-Match": "*"}


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
