# SPDX-License-Identifier: Apache-2.0
"""What this code leans on inside aiortc and aioice without their promise, in one place.

`check` says whether every name is there; `prepare`, called once at start, also puts ours in:

- `aiortc.rtcicetransport.Connection`: aiortc makes its ICE connection itself and lets nobody choose it;
- `aiortc.rtcrtpreceiver.decoder_worker`: Opus is handed on as it came, and without a thread. Decoding and
  encoding again would take most of the process's time; who wants samples can decode where they are wanted.
  `hear` hands it on without a task that waits for it, too;
- `aiortc.codecs.opus.OpusEncoder.pack`: takes the packets of `speech.packet` as they are;
- `RTCDtlsTransport._setup_srtp`: from then on RTP and RTCP are taken where they are received (`direct`);
- `aiortc.rtcrtpreceiver.JitterBuffer`: packets are put in order, and not held back (`order`);
- `aiortc.rtcsctptransport.InboundStream`, and a look at each chunk before it: messages are put together in
  bounded time and memory (`assembly`);
- `RTCIceTransport.start`: aiortc starts one transport once for audio and once for data, and the second time
  raises, where nobody waits for it, if the call has ended in between, in the middle of its DTLS handshake;
- the three methods that take what was decrypted (RTP, RTCP, SCTP): the connection is told that its client is
  there. Some clients, libnice's, send no check once a call is up, and no media while they are muted.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import re
from asyncio import AbstractEventLoop
from collections.abc import Awaitable, Callable
from contextlib import suppress
from queue import Queue
from typing import Any

import aioice
import aioice.candidate
import aioice.stun
import aiortc.codecs
import aiortc.rtcdtlstransport
import aiortc.rtcicetransport
import aiortc.rtcpeerconnection
import aiortc.rtcrtpreceiver
import aiortc.rtcsctptransport

from transceiver.assembly import Assembly, refuses
from transceiver.direct import DirectMedia
from transceiver.errors import LibraryError
from transceiver.ice import LiteConnection
from transceiver.order import Frames, Orderly
from transceiver.speech import libopus
from transceiver.speech.packet import OpusPacket

_DTLS, _SCTP = aiortc.rtcdtlstransport.RTCDtlsTransport, aiortc.rtcsctptransport.RTCSctpTransport
_ICE = aiortc.rtcicetransport.RTCIceTransport
_NAMES: tuple[tuple[str, Any, tuple[str, ...]], ...] = (
    ("aiortc", aiortc.rtcicetransport, ("Connection", "ConnectionClosed")),
    ("aiortc", aiortc.rtcrtpreceiver, ("decoder_worker", "JitterBuffer")),
    ("aiortc", _ICE, ("start", "state")),
    ("aiortc", aiortc.rtcdtlstransport, ("State", "is_rtcp", "pylibsrtp")),
    ("aiortc", _DTLS, ("_handle_rtp_data", "_handle_rtcp_data", "_setup_srtp")),
    ("aiortc", aiortc.rtcsctptransport, ("InboundStream",)),
    ("aiortc", _SCTP, ("_handle_data", "_receive_data_chunk")),
    ("aiortc", aiortc.codecs.opus, ("OpusDecoder",)),
    ("aiortc", aiortc.codecs.opus.OpusEncoder, ("pack",)),
    ("aioice", aioice, ("Candidate", "ConnectionClosed")),
    ("aioice", aioice.candidate, ("candidate_foundation", "candidate_priority")),
    ("aioice", aioice.stun, ("Class", "Message", "Method", "parse_message")),
    ("aioice", aioice.stun.Message, ("add_fingerprint", "add_message_integrity", "check_message_integrity")),
)
# Where aiortc uses its ICE connection. Every name that it asks of it, LiteConnection must have.
_USERS = (aiortc.rtcicetransport, aiortc.rtcpeerconnection)
_USE = re.compile(r"\b_connection\.(\w+)")


def direct_worker(loop: AbstractEventLoop, tasks: Queue[Any], track: Any, _: Any) -> None:
    """In the place of a decoder's thread: from now on tasks are done where they are put, in the loop.

    A task is a codec and `Frames`, or None at the end; `track` is the queue of the track that they are for.
    """

    def do(task: tuple[Any, Frames] | None) -> None:
        if task is None:
            track.put_nowait(None)
            return
        for timestamp, data in task[1].packets():
            track.put_nowait(OpusPacket(timestamp, data))

    def take_over() -> None:
        while not tasks.empty():
            do(tasks.get_nowait())
        tasks.put = do  # type: ignore[assignment, method-assign]

    with suppress(RuntimeError):  # the loop has ended meanwhile, and everything with it
        loop.call_soon_threadsafe(take_over)


def hear(track: Any, heard: Callable[[OpusPacket | None], None]) -> None:
    """From now on `heard` is called with each packet of a received track, and None at its end.

    Nobody can wait for `track.recv()` any more. `heard` must neither block nor raise.
    """
    queue = track._queue
    while not queue.empty():
        heard(queue.get_nowait())
    queue.put_nowait = heard


def _packs(pack: Callable[..., tuple[list[bytes], int]]) -> Callable[..., tuple[list[bytes], int]]:
    """A method that takes `av.Packet`, and ours, which has the payload and the timestamp as they are sent."""

    def pack_any(self: Any, packet: Any) -> tuple[list[bytes], int]:
        if isinstance(packet, OpusPacket):
            return [packet.data], packet.pts
        return pack(self, packet)

    return pack_any


def _then_direct(set_up: Callable[[Any], None]) -> Callable[[Any], None]:
    """A method that makes the SRTP sessions of a DTLS transport, telling the connection to use them then."""

    def set_up_then_direct(self: Any) -> None:
        set_up(self)
        if self._rx_srtp is not None:
            self.transport._connection.direct = DirectMedia(self)

    return set_up_then_direct


def _proves(
    handle: Callable[..., Awaitable[None]], ice: Callable[[Any], Any]
) -> Callable[..., Awaitable[None]]:
    """A method that takes decrypted data, telling the connection first; `ice` finds the transport of that."""

    async def handle_proof(self: Any, data: bytes, **more: Any) -> None:
        ice(self)._connection.proved()
        await handle(self, data, **more)

    return handle_proof


def _unless_closed(start: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """A method that starts a transport, but not one that was closed: nothing would come of it."""

    async def start_unless_closed(self: Any, *parameters: Any) -> None:
        if self.state != "closed":
            await start(self, *parameters)

    return start_unless_closed


def _bounded(receive: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """A method that receives SCTP's DATA chunks, without those that there is no room for."""

    async def receive_some(self: Any, chunk: Any) -> None:
        if refuses(self, chunk):
            self._sack_needed = True
        else:
            await receive(self, chunk)

    return receive_some


def check() -> None:
    """Raises `LibraryError` naming library, version and what is missing, there or here."""
    for library, owner, names in _NAMES:
        missing = [name for name in names if not hasattr(owner, name)]
        if missing:
            raise _error(library, f"has no {', '.join(missing)} in {owner.__name__}")
    libopus.library()
    used = {name for user in _USERS for name in _USE.findall(inspect.getsource(user))}
    foreign = used.difference(dir(LiteConnection))
    if not used or foreign:
        raise _error("aiortc", f"asks of its ICE connection what is not here: {', '.join(sorted(foreign))}")


def prepare() -> None:
    """Checks the libraries (raising as `check` does) and fits ours in."""
    check()
    aiortc.rtcicetransport.Connection = LiteConnection
    aiortc.rtcrtpreceiver.JitterBuffer = Orderly
    aiortc.rtcrtpreceiver.decoder_worker = direct_worker
    _ICE.start = _unless_closed(_ICE.start)
    _DTLS._setup_srtp = _then_direct(_DTLS._setup_srtp)
    aiortc.codecs.opus.OpusEncoder.pack = _packs(aiortc.codecs.opus.OpusEncoder.pack)
    for name in ("_handle_rtp_data", "_handle_rtcp_data"):
        setattr(_DTLS, name, _proves(getattr(_DTLS, name), lambda dtls: dtls.transport))
    _SCTP._handle_data = _proves(_SCTP._handle_data, lambda sctp: sctp.transport.transport)
    _SCTP._receive_data_chunk = _bounded(_SCTP._receive_data_chunk)
    aiortc.rtcsctptransport.InboundStream = Assembly


def _error(library: str, fault: str) -> LibraryError:
    version = importlib.metadata.version(library)
    return LibraryError(f"{library} {version} {fault}: install the version that pyproject.toml names")
