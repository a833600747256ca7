# SPDX-License-Identifier: Apache-2.0
"""A WebRTC caller: places calls by WHIP and proves that its sound and its messages come back.

    python -m tests.lab.caller --whip http://192.0.2.1:8080/whip --calls 20 --seconds 10 --json FILE

prints ``{"calls": [...]}`` with one `CallResult` for each call. It is aiortc as it is: full ICE on its own
host addresses, no STUN server, decoding what it receives; only its sound is encoded before the call, so
that many calls fit into one process.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import aiohttp
import aioice.ice
import av
import numpy as np
from aiortc import RTCBundlePolicy, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from tests.lab.restart import connection_of, nominate, restart_ice
from tests.lab.signals import (
    FRAME,
    PATIENCE,
    RATE,
    THRESHOLD,
    Samples,
    chirps,
    correlation,
    encode,
    from_wav,
)

HTTP_TIMEOUT = 10.0 * PATIENCE
SETUP_TIMEOUT = 15.0 * PATIENCE
TAIL_TIMEOUT = 2.0 * PATIENCE  # for what is still on its way when the sound has ended
CLOSE_TIMEOUT = 5.0 * PATIENCE
# Of checks in a row that were not answered within half a second: some are late there, and no loss.
aioice.ice.CONSENT_FAILURES = round(aioice.ice.CONSENT_FAILURES * PATIENCE)
SILENCE = 1.0  # seconds sent after the sound, so that its end is flushed through jitter buffers
STAGGER = 0.075
POSTS = 5  # of an offer, to a transceiver that has no room


@dataclass(frozen=True)
class CallResult:
    """What became of a call. Times in milliseconds; `correlation` as in `signals`."""

    connected: bool = False
    audio_verified: bool = False
    correlation: float = 0.0
    data_channel_verified: bool = False
    setup_ms: float | None = None  # from making the offer to the first sound received
    packets_sent: int = 0
    packets_received: int = 0
    widest_gap_ms: float | None = None  # of sound that did not come, between what did
    error: str | None = None


@dataclass(frozen=True)
class Recording:
    """A call that is over, and what is to be compared."""

    result: CallResult
    sent: Samples
    received: Samples


class CallError(Exception):
    """A call did not come about."""


class Microphone(MediaStreamTrack):  # type: ignore[misc]  # aiortc is untyped to mypy
    """Plays encoded packets in real time, then the last one (silence) for as long as it is asked."""

    kind = "audio"

    def __init__(self, packets: Sequence[bytes]) -> None:
        super().__init__()
        self.ended = asyncio.Event()
        self._packets = packets
        self._next = 0
        self.started = 0.0

    async def recv(self) -> Any:
        if self.readyState != "live":
            raise MediaStreamError
        clock = asyncio.get_running_loop().time
        if self._next == 0:
            self.started = clock()
        await asyncio.sleep(self.started + self._next * FRAME / RATE - clock())
        packet = av.Packet(self._packets[min(self._next, len(self._packets) - 1)])
        packet.pts = self._next * FRAME
        packet.time_base = Fraction(1, RATE)
        self._next += 1
        if self._next >= len(self._packets):
            self.ended.set()
        return packet


class Recorder:
    """Keeps what a track brings, each frame at the time that its RTP timestamp says: losses stay gaps."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self._frames: list[tuple[int, Any]] = []

    async def record(self, track: Any) -> None:
        """Runs until the track ends."""
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            self._frames.append((frame.pts, frame.to_ndarray().reshape(-1)[::2]))  # left of two
            self.first.set()

    def widest_gap_ms(self) -> float | None:
        """Most of what is missing between one frame and the next; None unless there are two."""
        starts = [start for start, _ in self._frames]
        gaps = [after - before - FRAME for before, after in itertools.pairwise(starts)]
        return max(gaps) / RATE * 1e3 if gaps else None

    def samples(self, most: int) -> Samples:
        """Up to `most` samples from the first frame on."""
        sound = np.zeros(most, np.float32)
        for start, frame in self._frames:
            room = sound[start : start + len(frame)] if 0 <= start < most else sound[:0]
            room[:] = frame[: len(room)] / np.float32(32768)
        return sound


class Messenger:
    """Sends messages of all kinds over a data channel and compares the answers."""

    def __init__(self, channel: Any) -> None:
        token = secrets.token_hex(8)
        self._messages: list[tuple[str | bytes, dict[str, object]]] = [
            (json.dumps({"token": token, "n": 1}), {"type": "echo", "data": {"token": token, "n": 1}}),
            (f"not JSON: {token}", {"type": "echo", "text": f"not JSON: {token}"}),
            (b"\x00\xff", {"type": "echo", "base64": "AP8="}),
        ]
        self._answers: list[object] = []
        channel.on("open", lambda: [channel.send(message) for message, _ in self._messages])
        channel.on("message", self._on_message)

    def _on_message(self, message: str | bytes) -> None:
        try:
            self._answers.append(json.loads(message))
        except ValueError:
            self._answers.append(None)

    @property
    def verified(self) -> bool:
        """Whether every message was answered, in order and rightly."""
        return self._answers == [answer for _, answer in self._messages]


async def place_call(
    whip_url: str,
    *,
    seconds: float,
    sound: Samples | None = None,
    local_address: str | None = None,
    restart: bool = False,
) -> CallResult:
    """Calls, plays `sound` (by default chirps nobody else plays), listens, hangs up. Never raises.

    Args:
        whip_url: where to post the offer.
        seconds: how long to play, if `sound` is not given.
        sound: what to play.
        local_address: the only address to send from; by default all of this host's.
        restart: restart ICE in the middle of the call, and go on from another port.
    """
    if sound is None:
        sound = chirps(secrets.randbits(63), seconds)
    packets = await asyncio.to_thread(encoded, sound)
    recording = await record_call(whip_url, sound, packets, local_address, restart)
    return await asyncio.to_thread(verified, recording)


def verified(recording: Recording) -> CallResult:
    """The result of a call, with its sound compared."""
    score = correlation(recording.sent, recording.received)
    return replace(recording.result, correlation=round(score, 3), audio_verified=score >= THRESHOLD)


async def record_call(
    whip_url: str, sound: Samples, packets: Sequence[bytes], local_address: str | None, restart: bool = False
) -> Recording:
    """A call, without the comparison at its end. Never raises."""
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=HTTP_TIMEOUT)) as http:
            return await _call(peer, http, whip_url, sound, packets, local_address, restart)
    # Whatever goes wrong in a call, with all that lies under it, is that call's result.
    except Exception as error:  # noqa: BLE001
        return Recording(CallResult(error=f"{type(error).__name__}: {error}"), sound, sound[:0])
    finally:
        await asyncio.wait([asyncio.create_task(peer.close())], timeout=CLOSE_TIMEOUT)


def encoded(sound: Samples) -> list[bytes]:
    """What `place_call` sends for a sound: it, and silence after it."""
    return encode(np.concatenate([sound, np.zeros(round(SILENCE * RATE), np.float32)]))


async def _call(
    peer: Any,
    http: aiohttp.ClientSession,
    whip_url: str,
    sound: Samples,
    packets: Sequence[bytes],
    local_address: str | None,
    restart: bool,
) -> Recording:
    microphone, recorder = Microphone(packets), Recorder()
    recordings: list[asyncio.Task[None]] = []
    peer.addTrack(microphone)
    messenger = Messenger(peer.createDataChannel("earshot"))
    peer.on("track", lambda track: recordings.append(asyncio.create_task(recorder.record(track))))
    if local_address is not None:
        bind_to(peer, local_address)
    started = time.perf_counter()
    await peer.setLocalDescription(await peer.createOffer())
    resource, answer = await _post(http, whip_url, peer.localDescription.sdp)
    result = CallResult()
    try:
        await peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        async with asyncio.timeout(SETUP_TIMEOUT):
            await recorder.first.wait()
        result = CallResult(connected=True, setup_ms=round((time.perf_counter() - started) * 1e3, 1))
        async with asyncio.timeout(len(packets) * FRAME / RATE + TAIL_TIMEOUT):
            if restart:
                await asyncio.sleep(len(sound) / RATE / 2)
                await restart_ice(peer, http, resource)
                await nominate(peer, new_port=True)
            await microphone.ended.wait()
    except TimeoutError:
        state = f"ICE {peer.iceConnectionState}, connection {peer.connectionState}"
        result = replace(result, error=f"{'the call stalled' if result.connected else 'no media'} ({state})")
    finally:
        # The counters are those before the end: closing sends packets of its own.
        sent, received = await _packets(peer)
        fault = await _hang_up(http, resource)
        for recording in recordings:
            recording.cancel()
    result = replace(
        result,
        error=result.error or fault,
        data_channel_verified=messenger.verified,
        packets_sent=sent,
        packets_received=received,
        widest_gap_ms=recorder.widest_gap_ms(),
    )
    return Recording(result, sound, recorder.samples(len(sound) + RATE))


async def _hang_up(http: aiohttp.ClientSession, resource: str) -> str | None:
    """What went wrong with it, if anything: what the call has shown by then stands."""
    try:
        async with http.delete(resource) as response:
            return None if response.status == 200 else f"DELETE was answered {response.status}"
    except (aiohttp.ClientError, TimeoutError) as error:
        return f"DELETE: {type(error).__name__}: {error}"


async def _post(http: aiohttp.ClientSession, whip_url: str, offer: str) -> tuple[str, str]:
    """Address of the session, and the answer. A transceiver that is full is asked again when it says so."""
    for attempt in itertools.count(1):
        async with http.post(whip_url, data=offer, headers={"Content-Type": "application/sdp"}) as response:
            body = await response.text()
            if response.status == 201:
                return urljoin(whip_url, response.headers["Location"]), body
            later = response.headers.get("Retry-After")
            if later is None or attempt == POSTS:
                raise CallError(f"POST was answered {response.status}: {body}")
            await asyncio.sleep(float(later))
    raise AssertionError("unreachable")


async def _packets(peer: Any) -> tuple[int, int]:
    """RTP packets sent and received."""
    stats = list((await peer.getStats()).values())
    return (
        sum(entry.packetsSent for entry in stats if entry.type == "outbound-rtp"),
        sum(entry.packetsReceived for entry in stats if entry.type == "inbound-rtp"),
    )


def bind_to(peer: Any, address: str) -> None:
    """Host candidates of one address only; aioice would take all, and never loopback."""
    connection = connection_of(peer)

    async def gather() -> None:
        connection._local_candidates = await connection.get_component_candidates(1, [address])
        connection._local_candidates_end = True

    connection.gather_candidates = gather


async def place_calls(
    whip_url: str,
    calls: int,
    seconds: float,
    wav: Path | None,
    local_address: str | None,
    restart: bool = False,
) -> list[CallResult]:
    """Several calls at a time, each started shortly after the one before."""

    def prepare(number: int) -> tuple[Samples, list[bytes]]:
        sound = from_wav(wav, number, seconds) if wav else chirps(number, seconds)
        return sound, encoded(sound)

    sounds = [await asyncio.to_thread(prepare, number) for number in range(calls)]

    async def one(number: int) -> Recording:
        await asyncio.sleep(number * STAGGER)
        return await record_call(whip_url, *sounds[number], local_address, restart)

    # Compared only when all have hung up: it is heavy, and would rob the others of their time.
    return [verified(recording) for recording in await asyncio.gather(*map(one, range(calls)))]


def main() -> int:
    """Exit code 0 if every call was verified in full."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab.caller", description=__doc__.split("\n")[0])
    parser.add_argument("--whip", required=True, metavar="URL")
    parser.add_argument("--calls", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--wav", type=Path, help="play this file instead of chirps")
    parser.add_argument("--local-address", help="send from this address only")
    parser.add_argument("--restart-ice", action="store_true", help="do so in the middle of each call")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there too")
    flags = parser.parse_args()
    results = asyncio.run(
        place_calls(flags.whip, flags.calls, flags.seconds, flags.wav, flags.local_address, flags.restart_ice)
    )
    text = json.dumps({"calls": [asdict(result) for result in results]}, indent=2)
    if flags.json:
        flags.json.write_text(text + "\n")
    print(text)
    return 0 if all(result.audio_verified and result.data_channel_verified for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
