# SPDX-License-Identifier: Apache-2.0
"""Transceivers behind a load balancer that knows nothing of sessions: requests find the owner."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urljoin, urlsplit

import aiohttp
import pytest
import pytest_asyncio
from click.testing import CliRunner

from tests.lab.balancer import Balancer
from tests.lab.restart import SDPFRAG, fragment, new_credentials
from tests.unit.test_transceiver_sdp import OFFER
from tests.unit.transceiver_world import CLIENT, Relay, running_relay, running_transceiver
from transceiver.main import main
from transceiver.peers import Known, PeersError

SHARED = pytest.mark.asyncio(loop_scope="module")

SDP = {"Content-Type": "application/sdp"}
RESTART = {"Content-Type": SDPFRAG, "If-Match": "*"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Fleet:
    """Two transceivers that know of each other, and what is before them."""

    def __init__(self, relay: Relay, urls: dict[str, str], balancer: Balancer, url: str) -> None:
        self.relay = relay
        self.urls = urls
        self.balancer = balancer
        self.url = url


@asynccontextmanager
async def fleets(*second: str) -> AsyncIterator[Fleet]:
    """`second`: flags of the second one."""
    ports = {name: free_port() for name in ("t1", "t2")}
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    async with running_relay() as relay, AsyncExitStack() as stack:

        async def start(name: str, other: str, *flags: str) -> None:
            known = (f"--peer={other}={urls[other]}", "--peer=t9=http://127.0.0.1:9")
            await stack.enter_async_context(
                running_transceiver(relay, f"--http=127.0.0.1:{ports[name]}", *known, *flags, name=name)
            )

        await asyncio.gather(start("t1", "t2"), start("t2", "t1", *second))
        balancer = Balancer(list(urls.values()))
        url = await stack.enter_async_context(balancer.serving(CLIENT))
        yield Fleet(relay, urls, balancer, url)


@SHARED
async def test_whatever_the_balancer_does_a_session_is_reached(fleet: Fleet) -> None:
    """With workers, too: the process in front hands on, and takes what is handed on."""
    async with aiohttp.ClientSession() as http:
        sessions = []
        for _ in range(4):
            async with http.post(f"{fleet.url}/whip", data=OFFER, headers=SDP) as answer:
                assert answer.status == 201
                sessions.append(urljoin(fleet.url, answer.headers["Location"]))
        owners = Counter(url.split("/")[-2] for url in sessions)
        assert owners == {"t1": 2, "t2": 2}
        # Each by each of the two, the owner and the other one.
        for number, url in enumerate(sessions * 2):
            async with http.patch(url, data=fragment(*new_credentials()), headers=RESTART) as answer:
                assert answer.status == 200, await answer.text()
                assert answer.headers.getall("ETag")
                assert answer.headers.getall("Access-Control-Allow-Origin") == ["*"]
            if number == 3:
                fleet.balancer.targets.reverse()
        reached = {(target, urlsplit(url).path) for target, url in fleet.balancer.sent if "/sessions/" in url}
        assert len(reached) == 8
        for url in sessions:
            async with http.delete(url) as answer:
                assert answer.status == 200
            async with http.delete(url) as answer:
                assert answer.status == 404
        assert not fleet.relay.sessions


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet() -> AsyncIterator[Fleet]:
    async with fleets("--workers=2") as made:
        yield made


@SHARED
@pytest.mark.parametrize(
    ("path", "headers", "status", "detail"),
    [
        ("t3/0123", {}, 421, "t1 does not know where that is"),
        ("t9/0123", {}, 503, "t9, whose session it is, does not answer"),
        ("t2/0123", {}, 404, "there is no such session"),
        # Who was told that it is here by one that is mistaken does not look any further: there are no loops.
        ("t2/0123", {"X-Earshot-Hop": "t3"}, 404, "t3 took t1 for t2"),
        ("t1/0123", {"X-Earshot-Hop": "t3"}, 404, "there is no such session"),
    ],
)
async def test_what_cannot_be_handed_on(
    fleet: Fleet, path: str, headers: dict[str, str], status: int, detail: str
) -> None:
    async with aiohttp.ClientSession() as http:
        url = f"{fleet.urls['t1']}/whip/sessions/{path}"
        async with http.delete(url, headers=headers) as answer:
            assert (answer.status, answer.content_type) == (status, "application/problem+json")
            assert detail in await answer.text()


@pytest.mark.parametrize(
    ("owner", "url"),
    [
        ("t2", "http://t2.voice.svc:8080"),
        ("earshot-transceiver-7", "http://earshot-transceiver-7.voice.svc:8080"),
        ("one", "https://elsewhere.example"),
        # What could lead out of the domain, or to another port, is nobody's name.
        ("evil.example", None),
        ("evil.example:80", None),
        ("-", None),
        ("", None),
        ("a" * 64, None),
    ],
)
def test_a_template_stays_in_its_domain(owner: str, url: str | None) -> None:
    known = Known({"one": "https://elsewhere.example"}, "http://{name}.voice.svc:8080")
    assert known.url_of(owner) == url


@pytest.mark.parametrize(
    "template",
    [
        "http://{name}",
        "http://{name}:8080",
        "http://x.{name}.svc",
        "http://voice.svc/{name}",
        "ftp://{name}.svc",
    ],
)
def test_a_template_that_could_lead_anywhere_is_refused(template: str) -> None:
    with pytest.raises(PeersError):
        Known({}, template)


@pytest.mark.parametrize(
    "flags",
    [
        ("--peer=t2",),
        ("--peer=t2=ftp://t2",),
        ("--peer=t2=http://t2/",),
        ("--peer=t2=http://a:b@t2",),
        ("--peer=t2=http://t2", "--peer=t2=http://t3"),
        ("--peer-template=http://{name}",),
        ("--public-url=voice.example",),
        ("--public-url=https://voice.example/?x=1",),
    ],
)
def test_flags_that_do_not_fit(flags: tuple[str, ...]) -> None:
    done = CliRunner().invoke(main, ["--media-address=127.0.0.3", *flags])
    assert done.exit_code == 2
    assert flags[-1].partition("=")[2].split("=")[-1] in done.output


async def test_a_public_address_leads_to_the_owner_by_itself() -> None:
    async with (
        running_relay() as relay,
        running_transceiver(relay, "--public-url=https://t1.voice.example/eu/") as transceiver,
        aiohttp.ClientSession() as http,
        http.post(transceiver.whip, data=OFFER, headers=SDP) as answer,
    ):
        path = f"/whip/sessions/t1/{next(iter(relay.sessions))}"
        assert answer.headers["Location"] == f"https://t1.voice.example/eu{path}"
        async with http.delete(transceiver.url + path) as deleted:
            assert deleted.status == 200
