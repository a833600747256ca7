# SPDX-License-Identifier: Apache-2.0
"""A WebRTC call by few means: set up by aiortc, whose ICE, DTLS and SRTP it keeps, and driven below it.

Sound is not encoded, and what comes is not decoded, so one core has time for hundreds of calls.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any
from urllib.parse import urljoin

import aiohttp
from aiortc import RTCBundlePolicy, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamTrack

from tests.lab.caller import bind_to

SETUP_TIMEOUT = 30.0


class Idle(MediaStreamTrack):  # type: ignore[misc]  # aiortc is untyped to mypy
    """A track that never says anything: what is sent is made below it."""

    kind = "audio"

    async def recv(self) -> Any:
        await asyncio.get_running_loop().create_future()


class Line:
    """One call, connected.

    Attributes:
        resource: where it is ended.
        local: the address and port that it is made from.
        heard: is called with the payload of each RTP packet that came.
    """

    def __init__(self, peer: Any, resource: str) -> None:
        sender = peer.getSenders()[0]
        self._peer = peer
        self.resource = resource
        self.heard: Callable[[bytes], None] = lambda _: None
        self._dtls = sender.transport
        self._connection = self._dtls.transport._connection
        pair = self._connection._nominated[1]
        self._send = pair.protocol.transport.sendto
        self._address = pair.remote_addr
        self.local: tuple[str, int] = pair.local_addr
        self._ssrc = sender._ssrc
        codec = next(line for line in peer.localDescription.sdp.split("\r\n") if "opus/48000/2" in line)
        self._payload_type = int(codec.removeprefix("a=rtpmap:").split(" ")[0])
        self._dtls._handle_rtp_data = self._received

    @property
    def state(self) -> str:
        """aiortc's: connected, failed or closed."""
        return str(self._peer.connectionState)

    def stop_checks(self) -> None:
        """Does not ask any more whether the other side is there, and so never hangs up by itself."""
        self._connection._query_consent_task.cancel()

    def send(self, number: int, samples: int, payload: bytes) -> None:
        """An RTP packet of so many samples of 48 kHz, as all of the call's."""
        header = struct.pack(
            "!BBHII", 0x80, self._payload_type, number & 0xFFFF, number * samples & 0xFFFFFFFF, self._ssrc
        )
        self._send(self._dtls._tx_srtp.protect(header + payload), self._address)

    async def close(self) -> None:
        await self._peer.close()

    async def _received(self, data: bytes, **_: Any) -> None:
        self.heard(_payload(data))


def _payload(packet: bytes) -> bytes:
    """What an RTP packet carries (RFC 3550, 5.1)."""
    start = 12 + 4 * (packet[0] & 0x0F)
    if packet[0] & 0x10:
        start += 4 + 4 * int.from_bytes(packet[start + 2 : start + 4], "big")
    return packet[start:]


async def connect(http: aiohttp.ClientSession, whip: str, address: str) -> Line:
    """Sets one up, from that address."""
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
    peer.addTrack(Idle())
    bind_to(peer, address)
    connected = asyncio.Event()
    peer.on("connectionstatechange", lambda: connected.set() if peer.connectionState == "connected" else None)
    await peer.setLocalDescription(await peer.createOffer())
    headers = {"Content-Type": "application/sdp"}
    async with http.post(whip, data=peer.localDescription.sdp, headers=headers) as response:
        if response.status != 201:
            raise RuntimeError(f"POST was answered {response.status}: {await response.text()}")
        resource = urljoin(whip, response.headers["Location"])
        await peer.setRemoteDescription(RTCSessionDescription(await response.text(), "answer"))
    async with asyncio.timeout(SETUP_TIMEOUT):
        await connected.wait()
    return Line(peer, resource)
