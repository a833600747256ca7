# SPDX-License-Identifier: Apache-2.0
"""One call: an aiortc peer connection, its ICE link, and where it stands in its life."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import Any

from aiortc import RTCBundlePolicy, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.exceptions import InvalidStateError
from earshot.relay.v1 import relay_pb2 as pb

from telemetry.tracing import NO_SPAN, Span
from transceiver.agent import Credentials
from transceiver.errors import OfferError
from transceiver.etag import new_etag
from transceiver.ice import LiteConnection, MediaLink, linked
from transceiver.log import event
from transceiver.media import Endpoint, Traffic
from transceiver.mux import Route
from transceiver.sdp import accept_offer, client_credentials, finish_answer, with_candidates_of
from transceiver.sdpfrag import restart_answer
from transceiver.speech.conversation import Converse
from transceiver.speech.messages import Throttle, too_many

CLOSE_TIMEOUT = 3.0
LAST_WORDS = 1.0  # seconds that a client has to open its data channel, if it is to hear why its call ends
UNTOLD = 64  # messages that wait for the client's data channel; the oldest go
UNSENT = 1 << 20  # bytes on a channel that the client does not take; what comes on top is dropped


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
    BACKEND_ENDED = "backend_ended"
    BACKEND_FAILED = "backend_failed"
    SHUTDOWN = "shutdown"


class Call:
    """One WebRTC session.

    `changed` is called whenever its connection state may have changed, `renewed` when an ICE restart has come
    to its end; neither may block. `fresh` makes its credentials. It is the `Client` of a conversation, and
    asks for its end by `hung_up`.
    """

    def __init__(
        self,
        call_id: str,
        routes: Sequence[Route],
        traffic: Traffic,
        metadata: Mapping[str, str],
        converse: Converse,
        changed: Callable[[Call], None],
        renewed: Callable[[Call], None],
        hung_up: Callable[[Call, End], None],
        span: Span,
        fresh: Callable[[], Credentials],
    ) -> None:
        self.id = call_id
        self.span = span  # until the client is connected
        self.connecting: Span = NO_SPAN  # from the registration on
        self.metadata = metadata
        self.etag = new_etag()
        self.patching = asyncio.Lock()
        self.state = State.CONNECTING
        self.started_at = asyncio.get_running_loop().time()
        self._hung_up = hung_up
        self._channel: Any = None  # that the client opened first, or used last
        self._untold: deque[str] = deque(maxlen=UNTOLD)
        self._reachable = asyncio.Event()  # by a data channel, once
        self._link = MediaLink(routes, traffic, lambda: renewed(self), fresh)
        self._answer = ""
        self._client: Credentials | None = None
        self._peer = RTCPeerConnection(
            RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE)
        )
        self._peer.on("track", self._on_track)
        self._peer.on("datachannel", self._on_datachannel)
        self._peer.on("connectionstatechange", lambda: changed(self))
        self._conversation = converse(self)

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

    @property
    def vips(self) -> list[Endpoint]:
        """What its client is told, the nearest first."""
        return [route.vip for route in self._link.routes]

    async def negotiate(self, offer: str) -> None:
        """Finds the answer to an offer; after it the call is to be reached at its endpoints.

        Raises:
            OfferError: the offer cannot be served.
        """
        accepted = accept_offer(offer)
        self._client = client_credentials(accepted)
        with linked(self._link):
            try:
                await self._peer.setRemoteDescription(RTCSessionDescription(accepted, "offer"))
                await self._peer.setLocalDescription(await self._peer.createAnswer())
                self._answer = finish_answer(self._peer.localDescription.sdp)
            # aiortc reads SDP with assertions, look-ups and conversions of all kinds, and wraps none of
            # what they raise. Whatever comes out, it is this offer that caused it, and nobody else's call
            # may suffer: so this is the one place that catches everything.
            except Exception as error:
                event(logging.INFO, "offer_refused", call=self.id, detail=f"{type(error).__name__}: {error}")
                raise OfferError(400, f"the offer could not be read ({type(error).__name__})") from error

    def advertise(self, vips: Sequence[Endpoint]) -> str:
        """The answer, with those of its VIPs alone that lead here."""
        if list(vips) != self.vips:
            self._answer = with_candidates_of(self._answer, vips)
            self._link.routes = [route for route in self._link.routes if route.vip in vips]
        return self._answer

    def asks_restart(self, client: Credentials) -> bool:
        """Whether these credentials are not those that the client has: it restarts ICE (RFC 8839, 4.4.1)."""
        return client != self._client

    def begin_restart(self) -> str:
        """New credentials beside those in use; returns the fragment that tells the client of them."""
        connection = self._connection
        connection.restart()
        return restart_answer(self._answer, connection.credentials[-1])

    def finish_restart(self, client: Credentials) -> None:
        """The relay knows of the new credentials."""
        self._client = client
        self._connection.follow_client(client)
        self.etag = new_etag()

    def undo_restart(self) -> None:
        """The relay does not know of the new credentials: they hold no more."""
        self._connection.withdraw()

    def registration(self) -> pb.Session:
        """What the relay is to know of it, once it has been negotiated."""
        return pb.Session(
            session_id=self.id,
            credentials=[
                pb.Credential(ufrag=held.ufrag, pwd=held.pwd) for held in self._connection.credentials
            ],
            endpoints=[
                pb.Endpoint(address=str(endpoint.address), port=endpoint.port)
                for endpoint in self._link.endpoints
            ],
        )

    def begin(self) -> None:
        """The client is connected: the conversation begins."""
        self._conversation.begin()

    def tell(self, text: str) -> None:
        """Sends a text to the client, or keeps it until there is a data channel."""
        if self._channel is None:
            self._untold.append(text)
            return
        try:
            if self._channel.bufferedAmount < UNSENT:
                self._channel.send(text)
        except (InvalidStateError, ValueError) as error:  # closing, or the client takes less
            event(logging.INFO, "message_not_sent", call=self.id, detail=str(error))

    def hang_up(self, reason: str, *, failed: bool) -> None:
        """The conversation has come to its end, and so does the call."""
        event(logging.INFO, "conversation_ended", call=self.id, reason=reason)
        self._hung_up(self, End.BACKEND_FAILED if failed else End.BACKEND_ENDED)

    async def close(self, reason: End) -> None:
        """Ends the conversation, says good-bye to the client (DTLS close_notify) and leaves the ports."""
        self.state = State.ENDED
        try:
            await self._conversation.close(reason)
            if reason in (End.BACKEND_ENDED, End.BACKEND_FAILED):
                await self._say_last_words()
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._peer.close()
        except TimeoutError:
            event(logging.WARNING, "close_timeout", call=self.id)
        finally:  # aiortc closes only what it has got to know before something failed
            if self._link.connection is not None:
                await self._link.connection.close()

    async def _say_last_words(self) -> None:
        """A backend can fail before the client's data channel is open: it is told all the same."""
        if self._untold and self._peer.sctp is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS):
                    await self._reachable.wait()

    @property
    def _connection(self) -> LiteConnection:
        assert self._link.connection is not None, "negotiate first"
        return self._link.connection

    def _on_track(self, track: Any) -> None:
        self._peer.addTrack(self._conversation.audio(track))

    def _on_datachannel(self, channel: Any) -> None:
        if self._channel is None:
            self._channel = channel
            self._reachable.set()
            while self._untold:
                self.tell(self._untold.popleft())
        clock = asyncio.get_running_loop().time
        throttle = Throttle(clock())

        @channel.on("message")  # type: ignore[untyped-decorator]
        def on_message(message: str | bytes) -> None:
            self._channel = channel  # what is answered, is answered where it was asked
            if throttle.takes(clock()):
                self._conversation.message(message)
            elif throttle.complains(clock()):
                self.tell(too_many())

        @channel.on("close")  # type: ignore[untyped-decorator]
        def on_close() -> None:
            if self._channel is channel:
                self._channel = None
