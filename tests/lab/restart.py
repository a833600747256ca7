# SPDX-License-Identifier: Apache-2.0
"""What aiortc has no method for: restarting the ICE of a call by WHIP, and going on from another port."""

from __future__ import annotations

import secrets
from typing import Any

import aiohttp
from aioice.ice import CandidatePair

SDPFRAG = "application/trickle-ice-sdpfrag"


class RestartError(Exception):
    """The other side would not restart."""


def connection_of(peer: Any) -> Any:
    """The ICE connection under aiortc, which is aioice's."""
    return peer.getSenders()[0].transport.transport.iceGatherer._connection


def new_credentials() -> tuple[str, str]:
    """A ufrag and a pwd."""
    return secrets.token_hex(4), secrets.token_hex(16)


def fragment(ufrag: str, pwd: str) -> str:
    """What a client sends to restart its ICE (RFC 9725, 4.3.3)."""
    return (
        "a=ice-options:trickle ice2\r\na=group:BUNDLE 0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:0\r\n"
        f"a=ice-ufrag:{ufrag}\r\na=ice-pwd:{pwd}\r\n"
        "a=candidate:1 1 udp 2122260223 192.0.2.7 50000 typ host\r\n"
    )


async def restart_ice(peer: Any, http: aiohttp.ClientSession, resource: str) -> str:
    """New credentials on both sides; nothing is checked with them yet. Returns the session's new ETag.

    Raises `RestartError`.
    """
    ufrag, pwd = new_credentials()
    headers = {"Content-Type": SDPFRAG, "If-Match": "*"}
    async with http.patch(resource, data=fragment(ufrag, pwd), headers=headers) as response:
        answer = await response.text()
        if response.status != 200:
            raise RestartError(f"PATCH was answered {response.status}: {answer}")
        etag = response.headers["ETag"]
    theirs = dict(line.removeprefix("a=").partition(":")[::2] for line in answer.split("\r\n"))
    connection = connection_of(peer)
    connection._local_username, connection._local_password = ufrag, pwd
    connection.remote_username, connection.remote_password = theirs["ice-ufrag"], theirs["ice-pwd"]
    return etag


async def nominate(peer: Any, new_port: bool, towards: str = "") -> None:
    """Checks and nominates (USE-CANDIDATE) the path from the present port, or a new one; sends from there.

    `towards`: the address of another of the other side's candidates.
    """
    connection = connection_of(peer)
    pair = connection._nominated[1]
    if towards:
        (candidate,) = (one for one in connection.remote_candidates if one.host == towards)
        pair = CandidatePair(pair.protocol, candidate)
    if new_port:
        await connection.get_component_candidates(1, [pair.local_addr[0]])
        pair = CandidatePair(connection._protocols[-1], pair.remote_candidate)
    request = connection.build_request(pair, nominate=True)
    await pair.protocol.request(request, pair.remote_addr, integrity_key=connection.remote_password.encode())
    connection._nominated[1] = pair
