# SPDX-License-Identifier: Apache-2.0
"""Speech backends that do as a test says, and a client that talks to them by a call of aiortc."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import aiohttp
import grpc
import grpc.aio
import numpy as np
from aiortc import RTCBundlePolicy, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from earshot.speech.v1 import speech_pb2 as pb
from earshot.speech.v1 import speech_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.lab.caller import Microphone, bind_to
from tests.lab.signals import RATE, Samples, encode
from tests.unit.transceiver_world import CLIENT, DEADLINE, Transceiver
from transceiver.backends.service import SERVICE

PCM_16K = pb.AudioFormat(encoding=pb.ENCODING_PCM_S16LE, rate_hz=16000)
QUIET = np.zeros(RATE // 50, np.float32)

Script = Callable[[Any], Awaitable[None]]  # what a backend does with a stream, its gRPC context


class Scripted(speech_pb2_grpc.SpeechServiceServicer):  # type: ignore[misc]
    """Reads Start, and then does as its script says; `starts` are those that came."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.starts: list[pb.Start] = []
        self.streams = 0

    async def Converse(self, _: Any, context: Any) -> None:
        self.starts.append((await context.read()).start)
        self.streams += 1
        try:
            await self.script(context)
        finally:
            self.streams -= 1


async def ready(context: Any, window_ms: int = 2000) -> None:
    """Agrees on 16 kHz both ways."""
    message = pb.Ready(audio_format=PCM_16K, speech_format=PCM_16K, audio_window_ms=window_ms)
    await context.write(pb.ConverseResponse(ready=message))


async def read_on(context: Any) -> pb.End:
    """Takes sound for as long as there is any; returns the end."""
    while True:
        request = await context.read()
        if request is grpc.aio.EOF:
            return pb.End(reason="gone")
        if request.WhichOneof("message") == "end":
            return request.end
        if request.WhichOneof("message") == "audio":
            progress = pb.Progress(until_us=request.audio.timestamp_us)
            await context.write(pb.ConverseResponse(progress=progress))


async def say(context: Any, utterance: int, seconds: float, *, last: bool = True, rate: int = 16000) -> None:
    """A tone."""
    tone = np.sin(np.arange(round(seconds * 16000)) * 2 * np.pi * 440 / 16000) * 8000
    speech = pb.Speech(utterance=utterance, data=tone.astype("<i2").tobytes(), rate_hz=rate, last=last)
    await context.write(pb.ConverseResponse(speech=speech))


@asynccontextmanager
async def backend(
    script: Script, credentials: grpc.ServerCredentials | None = None
) -> AsyncIterator[tuple[str, Scripted]]:
    """A healthy backend and its target: a unix socket, or a TCP port with these credentials."""
    with tempfile.TemporaryDirectory(prefix="est-") as folder:
        target = f"unix:{Path(folder) / 'backend.sock'}"
        server, service, state = grpc.aio.server(), Scripted(script), health.aio.HealthServicer()
        speech_pb2_grpc.add_SpeechServiceServicer_to_server(service, server)
        health_pb2_grpc.add_HealthServicer_to_server(state, server)
        await state.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
        if credentials is None:
            server.add_insecure_port(target)
        else:
            target = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}"
        await server.start()
        try:
            yield target, service
        finally:
            await server.stop(None)


class Talker:
    """A client in a call: what it was told, and what it heard."""

    def __init__(self, channel: Any, microphone: Microphone) -> None:
        self._channel = channel
        self._microphone = microphone
        self.events: list[dict[str, Any]] = []
        self.heard = np.zeros(0, np.float32)  # without the pauses that were not sent
        self.loud: list[float] = []  # when there was something to hear
        channel.on("message", lambda text: self.events.append(json.loads(text)))

    def send(self, message: str | bytes) -> None:
        self._channel.send(message)

    async def told(self, **what: object) -> dict[str, Any]:
        """The first event that has all of these; fails the test if it does not come."""
        async with asyncio.timeout(DEADLINE):
            while True:
                for event in self.events:
                    if what.items() <= event.items():
                        return event
                await asyncio.sleep(0.01)

    async def listen(self, track: Any) -> None:
        """Runs until the track ends."""
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            samples = frame.to_ndarray().reshape(-1)[::2] / np.float32(32768)
            self.heard = np.concatenate([self.heard, samples])
            if np.abs(samples).max() > 0.02:
                self.loud.append(asyncio.get_running_loop().time())

    def played_until(self, sample: int) -> float:
        """When a sample of the sound was played, by the loop's clock."""
        return self._microphone.started + sample / RATE

    def loud_seconds(self) -> float:
        """How much of what was heard was not silence."""
        frames = self.heard[: len(self.heard) // 960 * 960].reshape(-1, 960)
        return float((np.abs(frames).max(axis=1) > 0.02).sum() * 0.02) if len(frames) else 0.0


@asynccontextmanager
async def talking(transceiver: Transceiver, sound: Samples = QUIET, query: str = "") -> AsyncIterator[Talker]:
    """A call in which `sound` is played once, then silence; hung up at the end unless it has ended."""
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
    microphone = Microphone(await asyncio.to_thread(encode, np.concatenate([sound, QUIET])))
    peer.addTrack(microphone)
    talker = Talker(peer.createDataChannel("earshot"), microphone)
    bind_to(peer, CLIENT)
    listening: list[asyncio.Task[None]] = []
    peer.on("track", lambda track: listening.append(asyncio.create_task(talker.listen(track))))

    try:
        async with aiohttp.ClientSession() as http:
            await peer.setLocalDescription(await peer.createOffer())
            headers = {"Content-Type": "application/sdp"}
            url = transceiver.whip + query
            async with http.post(url, data=peer.localDescription.sdp, headers=headers) as response:
                assert response.status == 201, await response.text()
                resource = urljoin(transceiver.whip, response.headers["Location"])
                await peer.setRemoteDescription(RTCSessionDescription(await response.text(), "answer"))
            yield talker
            async with http.delete(resource) as response:
                assert response.status in (200, 404)
    finally:
        for task in listening:
            task.cancel()
        await asyncio.gather(*listening, return_exceptions=True)
        await peer.close()


def kinds(events: Sequence[dict[str, Any]]) -> list[str]:
    """What the events are, in words, to compare at once."""
    return [
        " ".join(str(event[key]) for key in ("type", "state", "reason") if key in event) for event in events
    ]
