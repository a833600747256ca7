# SPDX-License-Identifier: Apache-2.0
"""A transceiver that is asked to end: whom it still takes, whom it lets finish, and what it tells."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path

import aiohttp
import pytest

from tests.unit.test_transceiver_sdp import OFFER
from tests.unit.transceiver_client import calling
from tests.unit.transceiver_world import Transceiver, eventually, running_relay, running_transceiver
from transceiver.admission import Admission
from transceiver.moving import pause

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


async def test_clients_are_told_to_move_in_good_time_and_at_the_end() -> None:
    async with (
        running_relay() as relay,
        running_transceiver(relay, "--drain-timeout", "3") as transceiver,
        calling(transceiver) as one,
        calling(transceiver) as other,
    ):
        transceiver.process.send_signal(signal.SIGTERM)
        await eventually(lambda: bool(one.told and other.told))
        for client in (one, other):
            event = json.loads(client.told[0])
            assert (event["type"], event["reason"]) == ("move", "drain")
            assert 0 < event["within_seconds"] <= 3
        assert await one.delete() == 200
        assert await transceiver.process.wait() == 0
        await eventually(lambda: len(other.told) > 1)
        assert json.loads(other.told[1]) == {"type": "move", "reason": "shutdown", "within_seconds": 0}
        assert len(one.told) == 1
        assert "event=ending_calls calls=1" in transceiver.log


async def test_clients_need_not_be_told() -> None:
    async with (
        running_relay() as relay,
        running_transceiver(relay, "--drain-timeout", "1", "--no-move-clients") as transceiver,
        calling(transceiver) as client,
    ):
        transceiver.process.send_signal(signal.SIGTERM)
        assert await transceiver.process.wait() == 0
        assert not client.told


@pytest.mark.parametrize(
    ("calls", "seconds", "between"),
    [(3, 3600, 0.05), (400, 60, 0.05), (1000, 60, 0.03), (1000, 0.1, 0.00005), (0, 60, 0.05)],
)
def test_clients_are_told_no_faster_than_others_take_them(calls: int, seconds: float, between: float) -> None:
    assert pause(calls, seconds, pace=20) == pytest.approx(between)


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
