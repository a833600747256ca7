# SPDX-License-Identifier: Apache-2.0
"""A call by aiortc that restarts its ICE when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urljoin

import aiohttp
from aiortc import RTCBundlePolicy, RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from tests.lab.caller import Microphone, bind_to
from tests.lab.restart import SDPFRAG, connection_of, nominate, restart_ice
from tests.lab.signals import chirps, encode
from tests.unit.transceiver_world import CLIENT, DEADLINE, Transceiver


class Client:
    """A call under way."""

    def __init__(self, peer: Any, http: aiohttp.ClientSession, url: str, etag: str, told: list[str]) -> None:
        self._peer = peer
        self.told = told  # what came over the data channel
        self._http = http
        self.url = url
        self.etag = etag

    @property
    def session_id(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def server_ufrag(self) -> str:
        """The other side's ufrag that its checks name."""
        return str(connection_of(self._peer).remote_username)

    async def patch(self, body: str, if_match: str = "*") -> tuple[int, str]:
        """Status and body of a PATCH; a new ETag is remembered."""
        headers = {"Content-Type": SDPFRAG, "If-Match": if_match}
        async with self._http.patch(self.url, data=body, headers=headers) as response:
            self.etag = response.headers.get("ETag", self.etag)
            return response.status, await response.text()

    async def restart(self) -> None:
        """New credentials on both sides; nothing is checked with them yet."""
        self.etag = await restart_ice(self._peer, self._http, self.url)

    async def nominate(self, new_port: bool) -> None:
        """Changes over to the new credentials, on the present port or a new one."""
        await nominate(self._peer, new_port)

    async def follow(self, vip: str) -> None:
        """Changes over to another of the VIPs that it was told."""
        await nominate(self._peer, new_port=False, towards=vip)

    async def delete(self) -> int:
        async with self._http.delete(self.url) as response:
            return response.status


@asynccontextmanager
async def calling(transceiver: Transceiver) -> AsyncIterator[Client]:
    """A call whose sound goes to and fro; hung up without a DELETE."""
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
    peer.addTrack(Microphone(encode(chirps(1, 1.0))))
    told: list[str] = []
    peer.createDataChannel("earshot").on("message", told.append)
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
            yield Client(peer, http, url, etag, told)
    finally:
        for task in hearing:
            task.cancel()
        await asyncio.gather(*hearing, return_exceptions=True)
        await peer.close()
