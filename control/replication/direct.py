# SPDX-License-Identifier: Apache-2.0
"""Datagrams between the relays of a group: sealed with the fleet's key, bounded in size and number.

They go to relay addresses, at a port that no call has: the XDP program leaves them to the host. A relay that
has taken another's address gets what is for that one, and leaves it unanswered.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections import Counter
from collections.abc import Callable, Iterator

from control.addresses import IPAddress
from control.directory.errors import Refusal, SealError
from control.directory.seal import Opened, Sealer
from control.errors import ConfigError
from control.logs import event

PLACE = b"earshot group"
MOST_BYTES = 1200  # below any MTU
BURST, BURST_SECONDS = 128, 0.05  # what is read in that time; the rest waits in the socket, or is lost there
# Why a datagram may not be believed.
REFUSALS = (Refusal.MALFORMED, Refusal.VERSION, Refusal.KEY, Refusal.FORGED, Refusal.REPLAYED)
_FAMILIES = (socket.AF_INET, socket.AF_INET6)

_log = logging.getLogger(__name__)

# What another daemon has said, to what is to be sent back. It raises SealError.
Hear = Callable[[Opened], bytes | None]


class Direct:
    """This relay's sockets.

    Attributes:
        port: of all relays of the group.
        refused: datagrams that were not believed, by why.
    """

    def __init__(self, port: int, sealer: Sealer, hear: Hear) -> None:
        self.refused = Counter[Refusal]()
        self.port = port
        self._sealer, self._hear = sealer, hear
        self._sockets: dict[int, socket.socket] = {}
        self._left, self._window = BURST, 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Hears while the block runs.

        Raises:
            ConfigError: somebody else has the port.
        """
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as stack:
            for family in _FAMILIES:
                if (made := self._socket(family)) is None:
                    continue
                self._sockets[family] = stack.enter_context(made)
                loop.add_reader(made, self._read, made)
                stack.callback(loop.remove_reader, made)
            try:
                yield
            finally:
                self._sockets.clear()

    def _socket(self, family: int) -> socket.socket | None:
        """None: the host does not have that family."""
        try:
            made = socket.socket(family, socket.SOCK_DGRAM)
        except OSError as error:
            if error.errno == errno.EAFNOSUPPORT:
                return None
            raise
        made.setblocking(False)
        try:
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.bind(("", self.port))
        except OSError as error:
            made.close()
            raise ConfigError("group_port", f"UDP port {self.port}: {error.strerror}") from error
        return made

    def send(self, address: IPAddress, payload: bytes) -> None:
        """To the relay that has an address, if it can be reached."""
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        if (way := self._sockets.get(family)) is not None:
            self._put(way, (str(address), self.port), payload)

    def _put(self, way: socket.socket, end: tuple[str | int, ...], payload: bytes) -> None:
        # Nobody there, no route, no room: it is asked again.
        with contextlib.suppress(OSError):
            way.sendto(self._sealer.seal(PLACE, payload), end)

    def _read(self, way: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() - self._window >= BURST_SECONDS:
            self._window, self._left = loop.time(), BURST
        while self._left:
            try:
                sealed, source = way.recvfrom(MOST_BYTES + 1)
            except BlockingIOError:
                return
            except OSError:
                continue  # what an ICMP error says of something that was sent
            self._left -= 1
            self._take(way, sealed, source)
        # More than relays say: whoever floods is read slowly, and the daemon has other work.
        loop.remove_reader(way)
        loop.call_later(BURST_SECONDS, self._resume, way)

    def _resume(self, way: socket.socket) -> None:
        if way in self._sockets.values():
            asyncio.get_running_loop().add_reader(way, self._read, way)

    def _take(self, way: socket.socket, sealed: bytes, source: tuple[str | int, ...]) -> None:
        try:
            if len(sealed) > MOST_BYTES:
                raise SealError(Refusal.MALFORMED, f"has more than {MOST_BYTES} bytes")
            opened = self._sealer.unseal(PLACE, sealed)
            if opened.instance == self._sealer.instance:
                return  # to an address that we have taken
            answer = self._hear(opened)
        except SealError as error:
            self._refuse(error, source)
            return
        if answer is not None:
            self._put(way, source, answer)

    def _refuse(self, error: SealError, source: tuple[str | int, ...]) -> None:
        self.refused[error.why] += 1
        event(
            _log,
            logging.WARNING,
            "group_datagram_refused",
            source=source[0],
            why=error.why.value,
            message=error,
        )
