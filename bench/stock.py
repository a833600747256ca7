# SPDX-License-Identifier: Apache-2.0
"""An echo by aiortc as it comes, to compare with: decoded and encoded again, a port for each call.

python -m bench.stock HTTP-ADDRESS HTTP-PORT MEDIA-ADDRESS
"""

from __future__ import annotations

import sys
from typing import Any

from aiohttp import web
from aiortc import RTCBundlePolicy, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamTrack

from tests.lab.caller import bind_to


class Echo(MediaStreamTrack):  # type: ignore[misc]  # aiortc is untyped to mypy
    """Gives back what it takes."""

    kind = "audio"

    def __init__(self, source: Any) -> None:
        super().__init__()
        self._source = source

    async def recv(self) -> Any:
        return await self._source.recv()


async def offer(request: web.Request) -> web.Response:
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
    request.app["peers"].add(peer)
    peer.on("track", lambda track: peer.addTrack(Echo(track)))
    await peer.setRemoteDescription(RTCSessionDescription(await request.text(), "offer"))
    bind_to(peer, request.app["media"])
    await peer.setLocalDescription(await peer.createAnswer())
    headers = {"Location": f"/whip/{len(request.app['peers'])}", "Access-Control-Allow-Origin": "*"}
    return web.Response(status=201, text=peer.localDescription.sdp, headers=headers)


async def preflight(_: web.Request) -> web.Response:
    allowed = {"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Headers": "Content-Type"}
    return web.Response(headers=allowed)


def main() -> None:
    host, port, media = sys.argv[1:]
    app = web.Application()
    app["peers"], app["media"] = set(), media
    app.router.add_post("/whip", offer)
    app.router.add_options("/whip", preflight)
    web.run_app(app, host=host, port=int(port), print=lambda _: print("event=ready", flush=True))


if __name__ == "__main__":
    main()
