# SPDX-License-Identifier: Apache-2.0
"""A call by aiortc that can do what aiortc has no method for: restart its ICE, and move to another port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urljoin

import aiohttp
from aioice.ice import CandidatePair
from aiortc import RTCBundlePolicy, RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from tests.lab.caller import Microphone, bind_to
from tests.lab.signals import chirps, encode
from tests.unit.transceiver_world import CLIENT, DEADLINE, Transceiver
from transceiver.agent import Credentials

SDPFRAG = "application/trickle-ice-sdpfrag"


def fragment(credentials: Credentials) -> str:
    """What a client sends to restart its ICE."""
    return (
        "a=ice-options:trickle ice2\r\na=group:BUNDLE 0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:0\r\n"
        f"a=ice-ufrag:{credentials.ufrag}\r\na=ice-pwd:{credentials.pwd}\r\n"
        "a=candidate:1 1 udp 2122260223 192.0.2.7 50000 typ host\r\n"
    )


def credentials_of(sdp: str) -> Credentials:
    lines = dict(line.removeprefix("a=").partition(":")[::2] for line in sdp.split("\r\n"))
    return Credentials(lines["ice-ufrag"], lines["ice-pwd"])


class Client:
    """A call under way."""

    def __init__(self, peer: Any, http: aiohttp.ClientSession, url: str, etag: str) -> None:
        self._peer = peer
        self._http = http
        self.url = url
        self.etag = etag

    @property
    def session_id(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def connection(self) -> Any:
        """Its ICE connection, aioice's own."""
        return self._peer.getSenders()[0].transport.transport.iceGatherer._connection

    async def patch(self, body: str, if_match: str = "*") -> tuple[int, str]:
        """Status and body of a PATCH; a new ETag is remembered."""
        headers = {"Content-Type": SDPFRAG, "If-Match": if_match}
        async with self._http.patch(self.url, data=body, headers=headers) as response:
            self.etag = response.headers.get("ETag", self.etag)
            return response.status, await response.text()

    async def restart(self) -> None:
        """New credentials on both sides; nothing is checked with them yet."""
        ours = Credentials.fresh()
        status, answer = await self.patch(fragment(ours))
        assert status == 200, answer
        theirs = credentials_of(answer)
        connection = self.connection
        connection._local_username, connection._local_password = ours.ufrag, ours.pwd
        connection.remote_username, connection.remote_password = theirs.ufrag, theirs.pwd

    async def nominate(self, new_port: bool) -> None:
        """Checks, with USE-CANDIDATE, from the present port or a new one, and sends from there."""
        connection = self.connection
        pair = connection._nominated[1]
        if new_port:
            await connection.get_component_candidates(1, [CLIENT])
            pair = CandidatePair(connection._protocols[-1], pair.remote_candidate)
        request = connection.build_request(pair, nominate=True)
        await pair.protocol.request(
            request, pair.remote_addr, integrity_key=connection.remote_password.encode()
        )
        connection._nominated[1] = pair

    async def delete(self) -> int:
        async with self._http.delete(self.url) as response:
            return response.status


@asynccontextmanager
async def calling(transceiver: Transceiver) -> AsyncIterator[Client]:
    """A call whose sound goes to and fro; hung up without a DELETE."""
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
    peer.addTrack(Microphone(encode(chirps(1, 1.0))))
    bind_to(peer, CLIENT)
    heard = asyncio.Event()
    hearing: list[asyncio.Task[None]] = []

    async def hear(track: Any) -> None:
        while await track.recv():
            heard.set()

    peer.on("track", lambda track: hearing.append(asyncio.create_task(hear(track))))
    try:
        async with aiohttp.ClientSession() as http:
            await peer.setLocalDescription(await peer.createOffer())
            headers = {"Content-Type": "application/sdp"}
            offer = peer.localDescription.sdp
            async with http.post(transceiver.whip, data=offer, headers=headers) as response:
                assert response.status == 201, await response.text()
                answer = await response.text()
                url = urljoin(transceiver.whip, response.headers["Location"])
                etag = response.headers["ETag"]
            await peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
            async with asyncio.timeout(DEADLINE):
                await heard.wait()
            yield Client(peer, http, url, etag)
    finally:
        for task in hearing:
            task.cancel()
        await asyncio.gather(*hearing, return_exceptions=True)
        await peer.close()
