# SPDX-License-Identifier: Apache-2.0
"""Calls that come and go at a steady rate, of a transceiver that comes back when it has lost the relay."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections import deque

import grpc

from tests.lab.calls import RTP, STUN_PWD, binding_request, new_ufrag, payload
from tests.lab.relay_client import Attachment, RelayClient
from tests.lab.services import relay_target
from tests.lab.topology import VIP_PORT, Site

RATE = 10.0  # new calls a second
CALLS = 30  # at a time: each lives for three seconds
MEDIA_PORTS = (41000, 41001, 41002)
FIRST_CLIENT_PORT, CLIENT_PORTS = 30000, 20000


class Churn:
    """Runs in a thread of its own. `begun` counts calls whose first request was sent."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="churn")
        self._numbers = itertools.count()
        self._calls: deque[tuple[str, socket.socket]] = deque()
        self.begun = 0
        self.refused = 0
        self.reconnected = 0

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Its last calls are over when this returns."""
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.is_set():
            with contextlib.suppress(grpc.RpcError, ConnectionError):
                self._serve()
            self.reconnected += 1
            self._ending.wait(0.2)
        while self._calls:
            self._calls.popleft()[1].close()

    def _serve(self) -> None:
        """Until it ends, or loses the relay: then it comes back with nothing, and its calls are over."""
        with RelayClient(relay_target(self._site)) as relay, relay.attach("churn", None) as attachment:
            attachment.snapshot()
            while not self._ending.wait(1 / RATE):
                self._begin(attachment)
                if len(self._calls) > CALLS:
                    session_id, client = self._calls.popleft()
                    client.close()
                    attachment.remove(session_id)
            attachment.snapshot()

    def _begin(self, attachment: Attachment) -> None:
        number = next(self._numbers)
        addresses = self._site.addresses[4]
        session_id, ufrag = f"c{number}", new_ufrag()
        endpoint = (addresses.transceiver, MEDIA_PORTS[number % len(MEDIA_PORTS)])
        if attachment.add(session_id, ufrag, [endpoint], STUN_PWD).code:
            self.refused += 1
            return
        client = self._site.client.socket(socket.AF_INET)
        client.bind((addresses.client, FIRST_CLIENT_PORT + number % CLIENT_PORTS))
        vip = (addresses.vip, VIP_PORT)
        for message in (binding_request(ufrag), payload(RTP, 160), payload(RTP, 160)):
            with contextlib.suppress(OSError):  # while a link is down
                client.sendto(message, vip)
        self._calls.append((session_id, client))
        self.begun += 1
