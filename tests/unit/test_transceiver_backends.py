# SPDX-License-Identifier: Apache-2.0
"""Calls to speech backends: what is agreed on and carried, and what becomes of a call whose backend fails."""

from __future__ import annotations

import asyncio
import itertools
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import grpc
import pytest
from earshot.speech.v1 import speech_pb2 as pb

from control import pki
from tests.lab.caller import place_call
from tests.lab.signals import chirps
from tests.unit.speech_world import PCM_16K, backend, kinds, read_on, ready, say, talking
from tests.unit.test_transceiver_sdp import OFFER
from tests.unit.transceiver_world import CLIENT, eventually, metric, running_relay, running_transceiver
from transceiver.backends.service import serve
from transceiver.backends.session import PROGRESS_US, Session
from transceiver.speech.stream import FORMATS


async def good(context: Any) -> None:
    """A backend as it should be: it listens, and says one thing."""
    await ready(context)
    await say(context, 1, 0.2)
    await read_on(context)


async def page(url: str) -> str:
    async with aiohttp.ClientSession() as http, http.get(f"{url}/metrics") as response:
        return await response.text()


@asynccontextmanager
async def echo_process(rate: int = 16000) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """A backend in a process of its own, and its target; it must stop by SIGTERM."""
    with tempfile.TemporaryDirectory(prefix="est-") as folder:
        target = f"unix:{Path(folder) / 'echo.sock'}"
        argv = ("-m", "transceiver.backends.echo", "--listen", target, "--rate", str(rate))
        process = await asyncio.create_subprocess_exec(
            sys.executable, *argv, env={"PYTHONPATH": ":".join(sys.path)}, stderr=asyncio.subprocess.PIPE
        )
        try:
            assert process.stderr is not None
            assert await asyncio.wait_for(process.stderr.readline(), 10) == b"event=ready\n"
            yield target, process
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 10) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


@pytest.mark.parametrize(
    "rate", [16000, pytest.param(48000, marks=pytest.mark.nightly), 0], ids=["16k", "48k", "opus"]
)
async def test_sound_goes_through_a_backend_and_comes_back(rate: int) -> None:
    async with (
        echo_process(rate) as (target, _),
        running_relay() as relay,
        running_transceiver(relay, "--backend", target) as transceiver,
    ):
        result = await place_call(transceiver.whip, seconds=1.0, local_address=CLIENT)
        assert result.audio_verified, result
        assert result.error is None


async def test_a_session_from_start_to_end() -> None:
    ends: list[pb.End] = []
    seen: list[Any] = []

    async def script(context: Any) -> None:
        await ready(context)
        await context.write(pb.ConverseResponse(client_message=pb.ClientMessage(json='{"n": 1}')))
        while True:
            request = await context.read()
            kind = request.WhichOneof("message")
            seen.append(request.client_message.json if kind == "client_message" else kind)
            if kind == "end":
                ends.append(request.end)
                return
            if kind == "client_message":
                await say(context, 7, 0.3)

    async with (
        backend(script) as (target, service),
        running_relay() as relay,
        running_transceiver(relay, "--backend", target) as transceiver,
    ):
        async with talking(transceiver, query="?language=en&caller=a%20b") as talker:
            await talker.told(n=1)
            talker.send('{"hello": 1}')
            await eventually(lambda: "speech_ended" in seen)
            talker.send("not JSON")
            assert (await talker.told(type="error"))["reason"] == "not_json"
            assert (
                metric(await page(transceiver.url), f'earshot_transceiver_backend_up{{backend="{target}"}}')
                == 1
            )
        await eventually(lambda: bool(ends))
        assert ends[0].reason == "deleted"
        assert '{"hello": 1}' in seen
        assert "not JSON" not in seen
        assert seen.count("audio") > 5
        (start,) = service.starts
        assert start.transceiver == "t1"
        assert dict(start.metadata) == {"language": "en", "caller": "a b"}
        assert list(start.formats) == FORMATS
        assert start.attempt == 1
        assert talker.events[0] == {"type": "session", "state": "ready", "attempt": 1}
        await eventually(lambda: service.streams == 0)


async def test_barge_in_drops_what_was_queued(record_property: Callable[[str, object], None]) -> None:
    stopped_at, stopped_us = 0.0, 0
    played: list[Any] = []
    clock = asyncio.get_running_loop().time

    async def script(context: Any) -> None:
        nonlocal stopped_at, stopped_us
        await ready(context)
        for _ in range(8):
            await say(context, 1, 1.0, last=False)
        while True:
            request = await context.read()
            kind = request.WhichOneof("message")
            if kind == "progress" and request.progress.until_us > 500_000 and not stopped_at:
                stopped_at, stopped_us = clock(), request.progress.until_us
                await context.write(pb.ConverseResponse(stop_speech=pb.StopSpeech()))
            elif kind == "speech_ended":
                played.append(request.speech_ended)
                await say(context, 2, 0.3)
            elif kind == "end":
                return

    async with (
        backend(script) as (target, _),
        running_relay() as relay,
        running_transceiver(relay, "--backend", target) as transceiver,
        talking(transceiver) as talker,
    ):
        await eventually(lambda: bool(played))
        (session,) = relay.sessions
        sent_until = [time for time in relay.media_times[session] if time < clock()][-1]
        assert played[0].interrupted
        assert played[0].played_us < 1_500_000  # of the eight seconds that had been sent
        await talker.told(type="interrupted")
        await eventually(lambda: len(played) == 2)
        assert not played[1].interrupted
        assert played[1].played_us == 300_000
        record_property("barge_in_to_last_frame_ms", round((sent_until - stopped_at) * 1e3, 1))
        record_property("played_after_stop_ms", (played[0].played_us - stopped_us) / 1000)


async def broken_formats(context: Any) -> None:
    rate = pb.AudioFormat(encoding=pb.ENCODING_PCM_S16LE, rate_hz=44100)
    await context.write(
        pb.ConverseResponse(ready=pb.Ready(audio_format=rate, speech_format=PCM_16K, audio_window_ms=1000))
    )
    await read_on(context)


async def wrong_rate(context: Any) -> None:
    await ready(context)
    await say(context, 1, 0.2, rate=24000)
    await read_on(context)


async def half_samples(context: Any) -> None:
    await ready(context)
    await context.write(pb.ConverseResponse(speech=pb.Speech(utterance=1, data=b"123", rate_hz=16000)))
    await read_on(context)


async def too_much(context: Any) -> None:
    await ready(context)
    for _ in range(12):
        await say(context, 1, 1.0, last=False)
    await read_on(context)


async def no_json(context: Any) -> None:
    await ready(context)
    await context.write(pb.ConverseResponse(client_message=pb.ClientMessage(json="{")))
    await read_on(context)


async def impossible_progress(context: Any) -> None:
    await ready(context)
    await context.write(pb.ConverseResponse(progress=pb.Progress(until_us=1 << 40)))
    await read_on(context)


async def dies(context: Any) -> None:
    await ready(context)
    await context.abort(grpc.StatusCode.INTERNAL, "a defect")


async def never_ready(context: Any) -> None:
    await asyncio.sleep(60)


async def takes_no_sound(context: Any) -> None:
    await ready(context, window_ms=200)
    await asyncio.sleep(60)


async def full(context: Any) -> None:
    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")


FAULTS = [
    (broken_formats, "fault"),
    (wrong_rate, "fault"),
    (half_samples, "fault"),
    (too_much, "fault"),
    (no_json, "fault"),
    (impossible_progress, "fault"),
    (dies, "away"),
    (full, "away"),
    (never_ready, "stalled"),
    (takes_no_sound, "stalled"),
]


async def test_whatever_a_backend_does_ends_its_own_sessions_alone() -> None:
    """One transceiver, and one backend that does it all, one call after the other; another call goes on."""
    scripts = iter([good, *(fault for fault, _ in FAULTS)])

    async def script(context: Any) -> None:
        await next(scripts)(context)

    async with (
        backend(script) as (target, service),
        running_relay() as relay,
        running_transceiver(
            relay,
            *("--backend", target, "--backend-failure", "end"),
            *("--backend-start-timeout", "1.5", "--backend-stall-timeout", "1.5"),
        ) as transceiver,
        talking(transceiver) as bystander,
    ):
        await bystander.told(state="ready")
        for fault, kind in FAULTS:
            async with talking(transceiver) as talker:
                event = await talker.told(state="lost")
                assert event["reason"] == kind, fault.__name__
                await talker.told(state="ended", reason="backend_failed")
                await eventually(lambda: len(relay.sessions) == 1)
        assert kinds(bystander.events) == ["session ready"]
        assert bystander.loud_seconds() > 0.1
        bystander.send("[]")
        await eventually(lambda: service.streams == 1)
        text = await page(transceiver.url)
        for kind in ("fault", "away", "stalled"):
            sample = f'earshot_transceiver_backend_failures_total{{backend="{target}",kind="{kind}"}}'
            assert metric(text, sample) == [one for _, one in FAULTS].count(kind)
        assert metric(text, 'earshot_transceiver_calls_ended_total{reason="backend_failed"}') == len(FAULTS)


async def test_a_session_is_begun_anew_at_another_backend() -> None:
    async with (
        backend(dies) as (broken, first),
        backend(good) as (sound, second),
        running_relay() as relay,
        running_transceiver(relay, "--backend", broken, "--backend", sound) as transceiver,
    ):
        for _ in range(2):  # one of them is given to the broken backend first
            async with talking(transceiver) as talker:
                await eventually(lambda talker=talker: talker.loud_seconds() > 0.1)  # type: ignore[misc]
        assert [start.attempt for start in first.starts] == [1]
        assert sorted(start.attempt for start in second.starts) == [1, 2]


@pytest.mark.parametrize("policy", ["retry", pytest.param("end", marks=pytest.mark.nightly)])
async def test_a_process_that_hangs_loses_its_own_sessions_and_gets_no_more(policy: str) -> None:
    """Stopped by SIGSTOP: its socket is there, and takes what it is sent. Then it comes back."""
    async with (
        echo_process() as (hung, process),
        backend(good) as (sound, service),
        running_relay() as relay,
        running_transceiver(
            relay,
            *("--backend", hung, "--backend", sound, "--backend-failure", policy),
            *("--backend-start-timeout", "1.5", "--backend-stall-timeout", "1.5"),
        ) as transceiver,
        talking(transceiver) as one,
    ):
        await one.told(state="ready")
        async with talking(transceiver) as two:
            await two.told(state="ready")
            assert service.streams == 1
            victim, bystander = (
                (one, two) if f"backend={hung} " in first_session(transceiver.log) else (two, one)
            )
            process.send_signal(signal.SIGSTOP)
            try:
                assert (await victim.told(state="lost"))["reason"] == "stalled"
                if policy == "retry":
                    await victim.told(state="ready", attempt=2)
                else:
                    await victim.told(state="ended", reason="backend_failed")
                    assert kinds(bystander.events) == ["session ready"]
                    return  # what follows is the same, whatever becomes of the session
                await eventually(lambda: f"event=backend target={hung} healthy=False" in transceiver.log)
                up = f'earshot_transceiver_backend_up{{backend="{hung}"}}'
                assert metric(await page(transceiver.url), up) == 0
                # It has fewer sessions than the other one, and still gets none.
                for _ in range(2):
                    async with talking(transceiver) as another:
                        await another.told(state="ready")
                        assert kinds(another.events) == ["session ready"]
                assert kinds(bystander.events) == ["session ready"]
            finally:
                process.send_signal(signal.SIGCONT)
            await eventually(lambda: transceiver.log.count(f"event=backend target={hung} healthy=True") == 2)


def first_session(log: str) -> str:
    """The line that says who carries the first call."""
    return next(line for line in log.splitlines() if "event=backend_ready" in line)


async def test_a_session_that_no_backend_can_carry_ends_after_some_attempts() -> None:
    async with (
        backend(dies) as (target, service),
        running_relay() as relay,
        running_transceiver(relay, "--backend", target) as transceiver,
        talking(transceiver) as talker,
    ):
        await talker.told(state="ended", reason="backend_failed")
        assert [start.attempt for start in service.starts] == [1, 2, 3]
        await eventually(lambda: not relay.sessions)


async def test_a_backend_ends_a_call_with_its_own_reason() -> None:
    async def script(context: Any) -> None:
        await ready(context)
        await context.write(pb.ConverseResponse(end=pb.End(reason="goodbye")))

    async with (
        backend(script) as (target, _),
        running_relay() as relay,
        running_transceiver(relay, "--backend", target) as transceiver,
        talking(transceiver) as talker,
    ):
        await talker.told(type="session", state="ended", reason="goodbye")
        await eventually(lambda: not relay.sessions)
        assert "reason=backend_ended" in transceiver.log


async def test_the_least_loaded_backend_is_chosen() -> None:
    async with (
        backend(good) as (one, first),
        backend(good) as (two, second),
        running_relay() as relay,
        running_transceiver(relay, "--backend", one, "--backend", two) as transceiver,
        talking(transceiver) as a,
    ):
        await a.told(state="ready")
        async with talking(transceiver) as b:
            await b.told(state="ready")
            assert (first.streams, second.streams) == (1, 1)
        await eventually(lambda: first.streams + second.streams == 1)
        async with talking(transceiver) as c, talking(transceiver) as d:
            await c.told(state="ready")
            await d.told(state="ready")
            assert {first.streams, second.streams} == {1, 2}


async def test_over_tcp_a_backend_and_its_transceiver_prove_who_they_are(tmp_path: Path) -> None:
    pki.init(tmp_path, ["speech-1.example"], 1)
    pki.issue(tmp_path, "voice", ["voice-1.example"], 1)
    pki.init(tmp_path / "other", ["speech-1.example"], 1)
    pki.issue(tmp_path / "other", "voice", ["voice-1.example"], 1)
    pairs = [((tmp_path / "relay.key").read_bytes(), (tmp_path / "relay.crt").read_bytes())]
    ca = (tmp_path / "ca.crt").read_bytes()

    def flags(target: str, own: Path, ca: Path) -> tuple[str, ...]:
        files = ("--backend-certificate", str(own / "voice.crt"), "--backend-key", str(own / "voice.key"))
        name = ("--backend-server-name", "speech-1.example")
        return ("--backend", target, "--backend-ca", str(ca / "ca.crt"), *files, *name)

    async with (
        backend(good, grpc.ssl_server_credentials(pairs, ca, require_client_auth=True)) as (target, service),
        running_relay() as relay,
    ):
        async with (
            running_transceiver(relay, *flags(target, tmp_path, tmp_path)) as transceiver,
            talking(transceiver) as talker,
        ):
            await talker.told(state="ready")
        # A transceiver that the backend does not know, and a backend that the transceiver does not know.
        for own, known in ((tmp_path / "other", tmp_path), (tmp_path, tmp_path / "other")):
            async with (
                running_transceiver(relay, *flags(target, own, known)) as transceiver,
                aiohttp.ClientSession() as http,
                http.post(
                    transceiver.whip, data=OFFER, headers={"Content-Type": "application/sdp"}
                ) as response,
            ):
                assert response.status == 503
        assert len(service.starts) == 1


async def test_a_backend_in_python_tells_of_used_sound_now_and_then_and_of_all_in_the_end() -> None:
    session = Session(pb.Start(), PCM_16K, PCM_16K)
    for number in range(20):  # 400 ms
        session.take(pb.ConverseRequest(audio=pb.Audio(timestamp_us=number * 20_000, data=bytes(640))))

    async def listen() -> None:
        async for _ in session:
            pass

    async with asyncio.timeout(10), asyncio.TaskGroup() as running:
        listening = running.create_task(listen())
        told = [await session.outbox.get() for _ in range(3)]
        session.over()
        await listening
    assert [message.WhichOneof("message") for message in told] == ["ready", "progress", "progress"]
    assert told[1].progress.until_us >= PROGRESS_US
    assert told[2].progress.until_us == 380_000
    assert session.outbox.empty()


async def test_a_backend_that_does_not_encrypt_listens_on_loopback_alone() -> None:
    service = SimpleNamespace(audio_format=PCM_16K, speech_format=PCM_16K)
    for listen in ("0.0.0.0:9000", "[::]:9000", "10.0.0.1:9000", "speech:9000", "9000"):
        with pytest.raises(OSError, match=r"unix:PATH, or .* loopback"):
            await serve(service, listen, 1, lambda: None)


async def test_no_healthy_backend_means_503_until_there_is_one() -> None:
    async with running_relay() as relay:
        async with backend(good) as (target, _):
            pass  # it has gone; its address stays
        async with (
            running_transceiver(relay, "--backend", target) as transceiver,
            aiohttp.ClientSession() as http,
        ):
            headers = {"Content-Type": "application/sdp"}
            async with http.post(transceiver.whip, data=OFFER, headers=headers) as response:
                assert response.status == 503
                assert response.headers["Retry-After"] == "1"
                assert "backend" in (await response.json())["detail"]


async def test_sound_that_is_said_before_a_backend_fails_is_heard_by_the_next_in_order() -> None:
    """The second attempt's timestamps go on where the first one's were."""
    stamps: list[list[int]] = []

    async def script(context: Any) -> None:
        await ready(context)
        stamps.append([])
        while len(stamps[-1]) < 20:
            request = await context.read()
            if request.WhichOneof("message") == "audio":
                stamps[-1].append(request.audio.timestamp_us)
        if len(stamps) == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")
        await read_on(context)

    async with (
        backend(script) as (target, _),
        running_relay() as relay,
        running_transceiver(relay, "--backend", target) as transceiver,
        talking(transceiver, chirps(1, 3.0)) as talker,
    ):
        await talker.told(state="ready", attempt=2)
        await eventually(lambda: len(stamps) == 2 and len(stamps[1]) == 20)
        assert stamps[1][0] > stamps[0][-1]
        for part in stamps:
            assert [after - before for before, after in itertools.pairwise(part)] == [20_000] * 19
