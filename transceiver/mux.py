# SPDX-License-Identifier: Apache-2.0
"""One UDP socket for all calls of a process (and address family).

STUN request           the session that its USERNAME names, which then authenticates it
other STUN             dropped: what this side asks, it asks for the relay's sake, which sees the answers pass
all else (DTLS, SRTP)  the session that an authenticated request came for from the same address
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any, NamedTuple, Protocol

from aioice import stun

from transceiver.checks import ufrag_of
from transceiver.dispatch import Dispatch
from transceiver.log import event
from transceiver.media import Address, Drop, Endpoint, IPAddress, Traffic

STUN_FIRST_BYTES = range(4)  # RFC 7983
DATAGRAM = 4096  # bytes; WebRTC stays below 1,500
BURST = 64  # datagrams taken before other events get their turn
BUFFER = 4 << 20  # bytes asked of the kernel, each way; it gives at most net.core.{r,w}mem_max


class Session(Protocol):
    """What a port hands to."""

    def request_received(self, request: Any, path: Path) -> None:
        """A STUN request that names the session, by a ufrag of its own; nothing is authenticated yet."""

    def media_received(self, data: bytes, path: Path) -> None:
        """A datagram that is not STUN, from an address that the session has learned."""

    def path_lost(self, path: Path) -> None:
        """Another session has proved itself from there."""


class MediaPort:
    """A bound socket, and the sessions that share it. Made inside the running loop.

    Raises `OSError` if it cannot be bound. `port` 0 means any; `endpoint` has the real one.
    """

    def __init__(self, address: IPAddress, port: int, traffic: Traffic) -> None:
        self._traffic = traffic
        self._sessions: Dispatch[Session] = Dispatch()
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                self._socket.setsockopt(socket.SOL_SOCKET, option, BUFFER)
            self._socket.bind((str(address), port))
        except OSError as error:
            self._socket.close()
            raise OSError(
                error.errno, f"no media socket on {Endpoint(address, port)}: {error.strerror}"
            ) from None
        self.endpoint = Endpoint(address, self._socket.getsockname()[1])
        buffer = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        event(logging.INFO, "media_port", endpoint=self.endpoint, receive_buffer=buffer)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._readable)

    def close(self) -> None:
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def add(self, ufrag: str, session: Session) -> None:
        """Requests with this ufrag go to the session from now on."""
        self._sessions.add(ufrag, session)

    def remove(self, ufrag: str) -> None:
        """Requests with this ufrag go to nobody any more."""
        self._sessions.remove(ufrag)

    def learn(self, address: Address, session: Session, in_use: Address | None) -> None:
        """The session has authenticated a request from there; `in_use` is not forgotten in favour of it."""
        loser = self._sessions.learn(address, session, keep=in_use)
        if loser is not None:
            loser.path_lost(Path(self, address))

    def forget(self, session: Session) -> None:
        """What comes from the session's addresses goes to nobody any more."""
        self._sessions.forget(session)

    def send(self, data: bytes, address: Address) -> None:
        """Sends at once or drops: media that waits is worth nothing."""
        try:
            self._socket.sendto(data, address)
        except OSError:
            self._traffic.drops[Drop.NOT_SENT] += 1
        else:
            self._traffic.packets_out += 1
            self._traffic.bytes_out += len(data)

    def _readable(self) -> None:
        for _ in range(BURST):
            try:
                data, address = self._socket.recvfrom(DATAGRAM)
            except BlockingIOError:
                return
            self._received(data, (address[0], address[1]))

    def _received(self, data: bytes, address: Address) -> None:
        self._traffic.packets_in += 1
        self._traffic.bytes_in += len(data)
        if not data:
            self._traffic.drops[Drop.MALFORMED] += 1
        elif data[0] in STUN_FIRST_BYTES:
            self._stun_received(data, address)
        else:
            session = self._sessions.by_address(address)
            if session is None:
                self._traffic.drops[Drop.UNKNOWN_SOURCE] += 1
            else:
                session.media_received(data, Path(self, address))

    def _stun_received(self, data: bytes, address: Address) -> None:
        try:
            message = stun.parse_message(data)
        except (ValueError, struct.error, IndexError):  # the latter two: attributes that are cut short
            self._traffic.drops[Drop.MALFORMED] += 1
            return
        if message.message_class is not stun.Class.REQUEST:
            return  # a keep-alive (RFC 8445, 11), or the answer to a question, which the relay has timed
        session = self._sessions.by_ufrag(ufrag_of(message))
        if session is None:
            self._traffic.drops[Drop.UNKNOWN_UFRAG] += 1
        else:
            session.request_received(message, Path(self, address))


class Path(NamedTuple):
    """A way to a client: from a port of ours to an address that, behind a relay, is the relay's."""

    port: MediaPort
    address: Address


class Route(NamedTuple):
    """Where a call's media comes to, and the address of the relay that clients are told instead."""

    port: MediaPort
    vip: Endpoint


@contextmanager
def media_ports(addresses: Iterable[IPAddress], port: int, traffic: Traffic) -> Iterator[list[MediaPort]]:
    """One on each address, closed at the end. Raises as `MediaPort` does."""
    with ExitStack() as opened:
        yield [opened.enter_context(closing(MediaPort(address, port, traffic))) for address in addresses]
