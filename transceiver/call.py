# SPDX-License-Identifier: Apache-2.0
"""One call: an aiortc peer connection, its ICE link, and where it stands in its life."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

from aiortc import RTCBundlePolicy, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.exceptions import InvalidStateError
from earshot.relay.v1 import relay_pb2 as pb

from transceiver.echo import EchoTrack, answer
from transceiver.errors import BusyError, OfferError
from transceiver.ice import MediaLink, linked
from transceiver.log import event
from transceiver.media import MediaPorts, Route
from transceiver.sdp import accept_offer, finish_answer

CLOSE_TIMEOUT = 3.0


class State(StrEnum):
    """Where a call stands."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    ENDED = "ended"


class End(StrEnum):
    """Why a call ended."""

    DELETED = "deleted"
    CLIENT_CLOSED = "client_closed"
    CLIENT_SILENT = "client_silent"
    SETUP_TIMEOUT = "setup_timeout"
    FAILED = "failed"
    NOT_REGISTERED = "not_registered"
    SHUTDOWN = "shutdown"


class Call:
    """One WebRTC session.

    `changed` is called whenever its connection state may have changed; it must not block.
    """

    def __init__(self, ports: MediaPorts, routes: Sequence[Route], changed: Callable[[Call], None]) -> None:
        self.id = secrets.token_hex(16)  # unguessable: who knows it may end the call (RFC 9725, 5)
        self.etag = f'"{secrets.token_hex(8)}"'
        self.state = State.CONNECTING
        self.started_at = asyncio.get_running_loop().time()
        self._link = MediaLink(ports, routes)
        self._peer = RTCPeerConnection(
            RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE)
        )
        self._peer.on("track", self._on_track)
        self._peer.on("datachannel", self._on_datachannel)
        self._peer.on("connectionstatechange", lambda: changed(self))

    @property
    def connection_state(self) -> str:
        """aiortc's: new, connecting, connected, failed or closed."""
        return str(self._peer.connectionState)

    def overdue(self, now: float, setup_timeout: float, silence_timeout: float) -> End | None:
        """Why it should be ended, if it should."""
        if self.state is State.CONNECTING and now - self.started_at > setup_timeout:
            return End.SETUP_TIMEOUT
        if self.state is State.CONNECTED and now - self._link.heard_at > silence_timeout:
            return End.CLIENT_SILENT
        return None

    async def negotiate(self, offer: str) -> str:
        """The answer to an offer; after it the call's sockets are open.

        Raises:
            OfferError: the offer cannot be served.
            BusyError: there is no socket for it.
        """
        accepted = accept_offer(offer)
        with linked(self._link):
            try:
                await self._peer.setRemoteDescription(RTCSessionDescription(accepted, "offer"))
                await self._peer.setLocalDescription(await self._peer.createAnswer())
                return finish_answer(self._peer.localDescription.sdp)
            except OSError as error:
                raise BusyError(f"no socket for another call: {error}") from error
            # aiortc reads SDP with assertions, look-ups and conversions of all kinds, and wraps none of
            # what they raise. Whatever comes out, it is this offer that caused it, and nobody else's call
            # may suffer: so this is the one place that catches everything.
            except Exception as error:
                event(logging.INFO, "offer_refused", call=self.id, detail=f"{type(error).__name__}: {error}")
                raise OfferError(400, f"the offer could not be read ({type(error).__name__})") from error

    def registration(self) -> pb.Session:
        """What the relay is to know of it, once it has been negotiated."""
        connection = self._link.connection
        assert connection is not None, "negotiate first"
        return pb.Session(
            session_id=self.id,
            credentials=[pb.Credential(ufrag=connection.local_username, pwd=connection.local_password)],
            endpoints=[
                pb.Endpoint(address=str(endpoint.address), port=endpoint.port)
                for endpoint in self._link.endpoints
            ],
        )

    async def close(self) -> None:
        """Says good-bye to the client (DTLS close_notify) and closes the sockets."""
        self.state = State.ENDED
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._peer.close()
        except TimeoutError:
            event(logging.WARNING, "close_timeout", call=self.id)
            if self._link.connection is not None:
                await self._link.connection.close()

    def _on_track(self, track: Any) -> None:
        self._peer.addTrack(EchoTrack(track, self._link.heard))

    def _on_datachannel(self, channel: Any) -> None:
        @channel.on("message")  # type: ignore[untyped-decorator]
        def on_message(message: str | bytes) -> None:
            self._link.heard()
            try:
                channel.send(answer(message))
            except (InvalidStateError, ValueError) as error:  # closing, or the client takes less
                event(logging.INFO, "answer_not_sent", call=self.id, detail=str(error))
