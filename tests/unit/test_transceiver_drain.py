# SPDX-License-Identifier: Apache-2.0
"""A transceiver that is asked to end: whom it still takes, whom it lets finish, and what it tells."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import aiohttp
import pytest

from tests.unit.test_transceiver_sdp import OFFER
from tests.unit.transceiver_client import calling
from tests.unit.transceiver_world import Transceiver, eventually, running_relay, running_transceiver
from transceiver.admission import Admission

SDP = {"Content-Type": "application/sdp"}
WORKERS = pytest.mark.parametrize("workers", ["1", "2"])
DRAIN = ("--drain-timeout", "600")


async def ready(transceiver: Transceiver) -> tuple[int, str]:
    async with aiohttp.ClientSession() as http, http.get(f"{transceiver.url}/readyz") as answer:
        return answer.status, await answer.text()


async def post(transceiver: Transceiver) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as http,
        http.post(transceiver.whip, data=OFFER, headers=SDP) as answer,
    ):
        return answer.status, await answer.text()


@WORKERS
async def test_calls_go_on_and_new_ones_are_refused(workers: str) -> None:
    async with (
        running_relay() as relay,
        running_transceiver(relay, "--workers", workers, *DRAIN) as transceiver,
        calling(transceiver) as client,
    ):
        assert (await ready(transceiver))[0] == 200
        transceiver.process.send_signal(signal.SIGTERM)
        await eventually(lambda: "event=draining calls=1" in transceiver.log)
        status, why = await post(transceiver)
        assert (status, "about to end" in why) == (503, True)
        assert (await ready(transceiver))[0] == 503
        # What concerns the call that is there still reaches it.
        await client.restart()
        assert transceiver.process.returncode is None
        await client.delete()
        assert await transceiver.process.wait() == 0
        assert "reason=deleted" in transceiver.log
        assert "reason=shutdown" not in transceiver.log


@WORKERS
async def test_a_second_signal_does_not_wait(workers: str) -> None:
    async with (
        running_relay() as relay,
        running_transceiver(relay, "--workers", workers, *DRAIN) as transceiver,
        calling(transceiver),
    ):
        transceiver.process.send_signal(signal.SIGTERM)
        await eventually(lambda: "event=draining calls=1" in transceiver.log)
        transceiver.process.send_signal(signal.SIGTERM)
        assert await transceiver.process.wait() == 0
        assert "reason=shutdown" in transceiver.log


async def test_calls_are_ended_when_their_time_is_over() -> None:
    async with (
        running_relay() as relay,
        running_transceiver(relay, "--drain-timeout", "0.5") as transceiver,
        calling(transceiver),
    ):
        transceiver.process.send_signal(signal.SIGTERM)
        assert await transceiver.process.wait() == 0
        assert "event=draining calls=1" in transceiver.log
        assert "reason=shutdown" in transceiver.log


async def test_ready_is_who_would_take_a_call() -> None:
    async with (
        running_relay() as relay,
        running_transceiver(relay, "--max-calls", "1") as transceiver,
    ):
        assert await ready(transceiver) == (200, "ready\n")
        async with calling(transceiver) as client:
            status, why = await ready(transceiver)
            assert (status, "1 calls are all" in why) == (503, True)
            await client.delete()
        assert (await ready(transceiver))[0] == 200


def test_asking_takes_nothing() -> None:
    admission = Admission(calls=3, load=1.0, setups=1)
    for _ in range(5):
        assert admission.obstacle(0) is None
    assert admission.refusal(0) is None
    assert "calls a second" in (admission.obstacle(1) or "")
    admission.close("the end is near")
    assert admission.refusal(0) == admission.obstacle(0) == "the end is near"


@WORKERS
async def test_a_service_manager_is_told(
    workers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "30000000")
        heard: list[str] = []

        def has_said(*wanted: str) -> bool:
            try:
                while True:
                    heard.append(manager.recv(4096).decode())
            except BlockingIOError:
                return all(any(said.startswith(want) for said in heard) for want in wanted)

        async with running_relay() as relay, running_transceiver(relay, "--workers", workers) as transceiver:
            status = "STATUS=2 of 2 workers" if workers == "2" else "STATUS=attached to the relay, 0 calls"
            await eventually(lambda: has_said("READY=1", "WATCHDOG=1", status))
            assert not has_said("STOPPING=1")
            transceiver.process.send_signal(signal.SIGTERM)
            assert await transceiver.process.wait() == 0
            assert has_said("STOPPING=1")
