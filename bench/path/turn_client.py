# SPDX-License-Identifier: Apache-2.0
"""Opens a TURN channel for each flow (RFC 8656): what a client does before it sends media by coturn."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from contextlib import ExitStack

from aioice import stun

from bench.path import plan
from bench.path.candidates import Case
from bench.path.plan import CHANNEL
from control.addresses import IPAddress
from tests.lab.host import Host, LabError

AT_ONCE = 200  # clients that ask at the same time
PATIENCE = 2.0  # seconds until a question is asked again
TRIES = 4
START_TIMEOUT = 15.0
_UDP = 17
_LIFETIME = 3600  # seconds: longer than any run


def open_channels(host: Host, case: Case) -> list[int]:
    """An allocation and a channel to its transceiver for each flow; returns the relay ports, by flow.

    host: where the clients' addresses are.

    Raises:
        LabError: the server does not answer, or refuses.
    """
    clients, vip = plan.turn(case.family, 0).up.sent
    peers = plan.backends_end(case.family)
    server = (str(vip.address), vip.port)
    with _client(host, clients.address, 1, server) as first:
        _wait_until_served(first)
    ports: list[int] = []
    for start in range(0, case.flows, AT_ONCE):
        batch = range(start, min(start + AT_ONCE, case.flows))
        with ExitStack() as closing:
            sockets = [closing.enter_context(_client(host, *clients.of(flow), server)) for flow in batch]
            allocate = {"LIFETIME": _LIFETIME, "REQUESTED-TRANSPORT": _UDP << 24}
            answers = _ask(sockets, [_request(stun.Method.ALLOCATE, allocate) for _ in batch])
            ports += [int(answer.attributes["XOR-RELAYED-ADDRESS"][1]) for answer in answers]
            binds = []
            for flow in batch:
                offset = peers.of(flow)[0]
                peer = case.backend + (int(offset) - int(peers.address))
                channel = {"CHANNEL-NUMBER": CHANNEL, "XOR-PEER-ADDRESS": (str(peer), peers.port)}
                binds.append(_request(stun.Method.CHANNEL_BIND, channel))
            _ask(sockets, binds)
    return ports


def _client(host: Host, address: IPAddress, port: int, server: tuple[str, int]) -> socket.socket:
    made = host.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, timeout=PATIENCE)
    made.bind((str(address), port))
    made.connect(server)
    return made


def _request(method: stun.Method, attributes: Mapping[str, object]) -> stun.Message:
    return stun.Message(method, stun.Class.REQUEST, attributes=dict(attributes))


def _ask(sockets: list[socket.socket], requests: list[stun.Message]) -> list[stun.Message]:
    """All at once; returns the answers, in order."""
    for client, request in zip(sockets, requests, strict=True):
        client.send(bytes(request))
    return [_answer(client, request) for client, request in zip(sockets, requests, strict=True)]


def _answer(client: socket.socket, request: stun.Message) -> stun.Message:
    for _ in range(TRIES):
        try:
            answer = stun.parse_message(client.recv(2048))
        except TimeoutError:
            client.send(bytes(request))
            continue
        if answer.transaction_id == request.transaction_id:
            if answer.message_class != stun.Class.RESPONSE:
                raise LabError(f"the TURN server refuses: {answer}")
            return answer
    raise LabError("the TURN server does not answer")


def _wait_until_served(client: socket.socket) -> None:
    """Until it answers a Binding Request."""
    client.settimeout(0.1)
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            client.send(bytes(_request(stun.Method.BINDING, {})))
            client.recv(2048)
        except (TimeoutError, ConnectionRefusedError):
            if time.monotonic() > deadline:
                raise LabError("the TURN server does not start") from None
        else:
            return
