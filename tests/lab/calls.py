# SPDX-License-Identifier: Apache-2.0
"""A call made of bare sockets: what an ICE agent, DTLS and RTP put on the wire, on request."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import select
import socket
import string
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import grpc
from aioice import stun

from tests.lab.relay_client import Attachment
from tests.lab.topology import VIP_PORT, Site

STUN_PWD = "aPwdOfAtLeast22IceChars"
DTLS, RTP = 22, 128  # first bytes by which RFC 7983 tells them apart
SOCKET_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
DEADLINE = 5.0  # seconds for a datagram
PATIENCE = 20.0  # for anything else, on a machine that may have other work
RETRY_AFTER = 0.5  # an ICE agent's first retransmission: RFC 8489, 6.2.1

_numbers = itertools.count(1)


def binding_request(ufrag: str, pwd: str = STUN_PWD) -> bytes:
    """What a client's agent sends to check a pair (RFC 8445, 7.1)."""
    message = stun.Message(
        stun.Method.BINDING,
        stun.Class.REQUEST,
        attributes={"USERNAME": f"{ufrag}:client", "PRIORITY": 1, "ICE-CONTROLLING": 1},
    )
    message.add_message_integrity(pwd.encode())
    return bytes(message)


def binding_response(request: bytes, mapped: tuple[str, int], pwd: str = STUN_PWD) -> bytes:
    """The answer to a request that came from `mapped`."""
    message = stun.Message(
        stun.Method.BINDING,
        stun.Class.RESPONSE,
        transaction_id=stun.parse_message(request).transaction_id,
        attributes={"XOR-MAPPED-ADDRESS": mapped},
    )
    message.add_message_integrity(pwd.encode())
    return bytes(message)


def payload(first_byte: int, size: int) -> bytes:
    return bytes([first_byte]) + os.urandom(size - 1)


def new_ufrag(length: int = 8) -> str:
    return "".join(secrets.choice(string.ascii_letters + string.digits + "+/") for _ in range(length))


def nothing_waits(receiver: socket.socket) -> bool:
    """Whether no datagram has arrived that nobody has read."""
    return not select.select([receiver], [], [], 0)[0]


def wait_for(condition: Callable[[], bool], what: str, timeout: float = PATIENCE) -> None:
    """Returns once the condition holds; fails, naming it, when it does not in time.

    Asks less often the longer it takes: what is waited for needs the CPU as well.
    """
    begun = time.monotonic()
    while not condition():
        waited = time.monotonic() - begun
        assert waited < timeout, f"not within {timeout:.0f} s: {what}"
        time.sleep(min(0.05, 0.01 + waited / 20))


@dataclass
class Call:
    """A client's socket, a transceiver's, and a session that joins them at the relay."""

    client: socket.socket
    transceiver: socket.socket
    vip: tuple[str, int]
    session_id: str
    ufrag: str
    pwd: str = STUN_PWD
    peer: tuple[str, int] = ("", 0)  # of the transceiver, once bound: relay address and port

    def bind(self, requests: int = 1) -> tuple[str, int]:
        """Sends at most that many Binding Requests until one arrives; returns where from."""
        self.transceiver.settimeout(RETRY_AFTER if requests > 1 else DEADLINE)
        request = binding_request(self.ufrag, self.pwd)
        for last in (number == requests - 1 for number in range(requests)):
            self.client.sendto(request, self.vip)
            try:
                self.peer = self.receive(request)
                break
            except TimeoutError:
                if last:
                    raise
        self.transceiver.settimeout(DEADLINE)
        return self.peer

    def receive(self, expected: bytes) -> tuple[str, int]:
        """Takes exactly this datagram at the transceiver; returns where it came from."""
        data, source = self.transceiver.recvfrom(65536)
        assert data == expected
        return (source[0], source[1])

    def up(self, data: bytes) -> None:
        """From client to transceiver, whole and from the same relay port."""
        self.client.sendto(data, self.vip)
        assert self.receive(data) == self.peer

    def down(self, data: bytes) -> None:
        """From transceiver to client, whole and from the VIP."""
        self.transceiver.sendto(data, self.peer)
        received, source = self.client.recvfrom(65536)
        assert received == data
        assert source[:2] == self.vip


@contextlib.contextmanager
def call(
    site: Site, attachment: Attachment, family: int, source: tuple[str, int] = ("", 0)
) -> Iterator[Call]:
    """A registered call that is not bound yet; `source` is the client's own address."""
    addresses = site.addresses[family]
    with (
        site.client.socket(SOCKET_FAMILY[family], timeout=DEADLINE) as client,
        site.transceiver.socket(SOCKET_FAMILY[family], timeout=DEADLINE) as transceiver,
    ):
        client.bind(source)
        transceiver.bind((addresses.transceiver, 0))
        session_id, ufrag = f"call-{next(_numbers)}", new_ufrag()
        result = attachment.add(session_id, ufrag, [transceiver.getsockname()[:2]], STUN_PWD)
        assert result.code == 0, result
        yield Call(client, transceiver, (addresses.vip, VIP_PORT), session_id, ufrag)
        # A test may have ended the stream, or the relay.
        with contextlib.suppress(grpc.RpcError):
            attachment.remove(session_id)
