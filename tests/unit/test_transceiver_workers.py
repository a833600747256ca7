# SPDX-License-Identifier: Apache-2.0
"""Several worker processes behind one HTTP address, and their deaths."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
from click.testing import CliRunner

from tests.lab.restart import fragment, new_credentials
from tests.unit.test_transceiver_sdp import OFFER
from tests.unit.transceiver_client import calling
from tests.unit.transceiver_world import (
    MEDIA,
    Relay,
    Transceiver,
    eventually,
    metric,
    running_relay,
    running_transceiver,
)
from transceiver.main import main
from transceiver.merge import merged

SDP = {"Content-Type": "application/sdp"}
TWO = ("--workers", "2")


def pids(transceiver: Transceiver) -> dict[int, int]:
    """The newest process of each worker."""
    started = re.findall(r"event=worker_started number=(\d+) pid=(\d+)", transceiver.log)
    return {int(number): int(pid) for number, pid in started}


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def workers_of(relay: Relay) -> list[str]:
    """The workers that have sessions, as their ids say."""
    return sorted({session_id.rpartition(".")[2] for session_id in relay.sessions})


async def post(http: aiohttp.ClientSession, transceiver: Transceiver) -> tuple[int, str]:
    async with http.post(transceiver.whip, data=OFFER, headers=SDP) as response:
        return response.status, transceiver.url + response.headers.get("Location", "")


async def page(http: aiohttp.ClientSession, url: str) -> tuple[int, str]:
    async with http.get(url) as response:
        return response.status, await response.text()


async def test_workers_share_the_calls_and_each_owns_its_own() -> None:
    async with (
        running_relay() as relay,
        running_transceiver(relay, *TWO) as transceiver,
        aiohttp.ClientSession() as http,
    ):
        assert sorted(hello.transceiver for hello in relay.hellos) == ["t1.0", "t1.1"]
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(calling(transceiver)) for _ in range(4)]
            assert workers_of(relay) == ["0", "1"]
            ports = {session.endpoints[0].port for session in relay.sessions.values()}
            assert len(ports) == 2
            for client in clients:
                await client.restart()
                await client.nominate(new_port=True)
                assert (await client.patch(fragment(*new_credentials()), '"stale"'))[0] == 412
                assert await client.delete() == 200
                assert await client.delete() == 404
        assert not relay.sessions
        status, text = await page(http, f"{transceiver.url}/metrics")
        assert status == 200
        for worker in "01":
            setups = f'earshot_transceiver_setups_total{{result="connected",worker="{worker}"}}'
            assert metric(text, setups) == 2
        assert metric(text, "earshot_transceiver_workers") == 2
        assert await page(http, f"{transceiver.url}/healthz") == (200, "2 of 2 workers are attached\n")


async def test_what_is_no_workers_business_is_answered_as_by_one() -> None:
    async with (
        running_relay() as relay,
        running_transceiver(relay, *TWO) as transceiver,
        aiohttp.ClientSession() as http,
    ):
        for method, path, status in (
            ("GET", "/whip", 405),
            ("GET", "/nothing", 404),
            ("DELETE", "/whip/sessions/t1/0123", 404),
            ("DELETE", "/whip/sessions/t1/0123.1", 404),
            ("DELETE", "/whip/sessions/t1/0123.7", 404),
            ("DELETE", "/whip/sessions/t1/..%2f..%2fx.0", 404),
            ("DELETE", f"/whip/sessions/t1/0123.{'1' * 5000}", 404),
            ("GET", "//127.0.0.1:1/whip", 404),
            ("OPTIONS", "/whip", 204),
            ("POST", "/whip", 415),
        ):
            async with http.request(method, transceiver.url + path) as response:
                assert response.status == status, (method, path)
                assert response.headers.getall("Access-Control-Allow-Origin") == ["*"]
                assert len(response.headers.getall("Date")) == 1
                if status >= 400:
                    assert response.content_type == "application/problem+json"
                if status == 405:
                    assert "POST" in response.headers["Allow"]
        async with http.post(transceiver.whip, data=OFFER + "a=x\r\n" * 20000, headers=SDP) as response:
            assert response.status == 413


async def test_a_workers_death_takes_its_own_calls_and_no_other() -> None:
    async with (
        running_relay() as relay,
        running_transceiver(relay, *TWO) as transceiver,
        aiohttp.ClientSession() as http,
        calling(transceiver) as one,
        calling(transceiver) as other,
    ):
        doomed, spared = sorted((one, other), key=lambda client: client.url.rpartition(".")[2])
        os.kill(pids(transceiver)[0], signal.SIGKILL)
        statuses = [(await post(http, transceiver))[0] for _ in range(3)]
        assert statuses == [201] * 3  # by the one that is left
        assert await doomed.delete() == 404
        await eventually(lambda: "t1.0" in [hello.transceiver for hello in relay.hellos[2:]])
        await eventually(lambda: doomed.session_id not in relay.sessions)
        times = relay.media_times[spared.session_id]
        heard = len(times)
        await eventually(lambda: len(times) > heard + 25)
        assert relay.widest_gap(spared.session_id) < 10
        await eventually(lambda: transceiver.log.count("event=worker_ready") == 3)
        before = set(relay.sessions)
        assert [(await post(http, transceiver))[0] for _ in range(2)] == [201] * 2
        assert {name.rpartition(".")[2] for name in set(relay.sessions) - before} == {"0", "1"}
        assert await spared.delete() == 200
        _, text = await page(http, f"{transceiver.url}/metrics")
        assert metric(text, "earshot_transceiver_worker_restarts_total") == 1


async def test_without_any_worker_the_front_says_so() -> None:
    async with (
        running_relay() as relay,
        running_transceiver(relay, *TWO) as transceiver,
        aiohttp.ClientSession() as http,
    ):
        stopped = list(pids(transceiver).values())
        for pid in stopped:
            os.kill(pid, signal.SIGKILL)
        await eventually(lambda: not any(map(runs, stopped)))
        async with http.post(transceiver.whip, data=OFFER, headers=SDP) as response:
            assert response.status == 503
            assert response.headers["Retry-After"]
        assert (await page(http, f"{transceiver.url}/healthz"))[0] == 503
        await eventually(lambda: transceiver.log.count("event=worker_ready") == 4)
        assert (await post(http, transceiver))[0] == 201


async def test_offers_go_past_a_full_worker_until_all_are_full() -> None:
    async with (
        running_relay() as relay,
        running_transceiver(relay, *TWO, "--max-calls", "2") as transceiver,
        aiohttp.ClientSession() as http,
    ):
        locations = []
        for _ in range(4):
            status, location = await post(http, transceiver)
            assert status == 201
            locations.append(location)
        assert (await post(http, transceiver))[0] == 503
        first = next(location for location in locations if location.endswith(".0"))
        async with http.delete(first) as response:
            assert response.status == 200
        assert (await post(http, transceiver))[0] == 201
        assert len(relay.sessions) == 4


async def test_workers_end_with_their_parent_however_it_ends() -> None:
    async with running_relay() as relay, running_transceiver(relay, *TWO) as transceiver:
        workers = pids(transceiver).values()
        assert all(map(runs, workers))
        transceiver.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(transceiver.process.wait(), 10) == 0
        assert not any(map(runs, workers))


async def test_workers_outlive_no_killed_parent() -> None:
    async with running_relay() as relay, AsyncExitStack() as stack:
        transceiver = await stack.enter_async_context(running_transceiver(relay, *TWO, exit_code=-9))
        workers = pids(transceiver).values()
        transceiver.process.kill()
        await transceiver.process.wait()
        await eventually(lambda: not any(map(runs, workers)))


async def test_media_ports_follow_one_another() -> None:
    async with running_relay() as relay:
        base = free_ports(2)
        flags = (*TWO, "--media-port", str(base))
        async with running_transceiver(relay, *flags) as transceiver, aiohttp.ClientSession() as http:
            for _ in range(2):
                assert (await post(http, transceiver))[0] == 201
            ports = {session.endpoints[0].port for session in relay.sessions.values()}
            assert ports == {base, base + 1}


async def test_a_worker_that_cannot_start_ends_all() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        base = free_ports(2)
        taken.bind((MEDIA, base + 1))
        async with running_relay() as relay, AsyncExitStack() as stack:
            flags = (*TWO, "--media-port", str(base))
            transceiver = await stack.enter_async_context(
                running_transceiver(relay, *flags, exit_code=1, errors=True)
            )
            assert await asyncio.wait_for(transceiver.process.wait(), 10) == 1
            assert f"no media socket on {MEDIA}:{base + 1}" in transceiver.log
            assert "worker 1 could not start" in transceiver.log


def test_ports_must_be_there_for_all_workers() -> None:
    result = CliRunner().invoke(main, ["--media-address", MEDIA, "--media-port", "65535", "--workers", "2"])
    assert result.exit_code == 2
    assert "--media-port" in result.output


def test_metrics_of_workers_are_told_apart() -> None:
    one = '# HELP x_total Things.\n# TYPE x_total counter\nx_total{kind="a"} 1.0\n'
    other = one.replace("1.0", "2.0") + "# HELP y Else.\n# TYPE y gauge\ny 3.0\n"
    text = merged({"0": one, "1": other}, alive=2, restarts=5).decode()
    assert metric(text, 'x_total{kind="a",worker="0"}') == 1
    assert metric(text, 'x_total{kind="a",worker="1"}') == 2
    assert metric(text, 'y{worker="1"}') == 3
    assert metric(text, "earshot_transceiver_worker_restarts_total") == 5
    assert text.count("# TYPE x_total counter") == 1


def free_ports(count: int) -> int:
    """The first of so many UDP ports in a row that were free a moment ago."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as first:
            first.bind((MEDIA, 0))
            base: int = first.getsockname()[1]
            try:
                for number in range(1, count):
                    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as next_one:
                        next_one.bind((MEDIA, base + number))
            except (OSError, OverflowError):
                continue
            return base
