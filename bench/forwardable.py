# SPDX-License-Identifier: Apache-2.0
"""How soon a session that is registered can be called: from its Batch to its first packet at the transceiver.

Of each session: it is sent alone in a Batch; when the answer says so, a client's Binding Request goes to the
VIP, and what counts is when the transceiver's socket has it. The session has to be in the map by the answer.
"""

from __future__ import annotations

import socket
import time
from typing import Any, NamedTuple

import numpy as np

from bench.relayhost import relay_endpoint
from control import abi
from control.datapath import Datapath
from tests.bpf import stun
from tests.lab.relay_client import RelayClient
from tests.lab.topology import IPV4, Site

PORT = 9999  # of the transceiver
PWD = "a-pwd-of-more-than-22-characters".replace("-", "+")


class Sample(NamedTuple):
    """Milliseconds since the Batch was sent."""

    answered: float
    forwarded: float


def sample(site: Site, target: str, datapath: Datapath, name: str, done: Any) -> list[Sample]:
    """One session after the other, until `done` says so of the samples there are."""
    found: list[Sample] = []
    vip = relay_endpoint()
    receiver = site.transceiver.socket(socket.AF_INET)
    with receiver, RelayClient(target) as relay, relay.attach(name) as attachment:
        receiver.bind((IPV4.transceiver, PORT))
        while not done(found):
            number = len(found)
            ufrag = f"{name}+{number:05}"
            key = np.zeros(1, abi.UFRAG_KEY)
            key["ufrag"] = ufrag.encode()
            request = stun.request(f"{ufrag}:peer".encode(), PWD.encode())
            with site.client.socket(socket.AF_INET) as client:
                start = time.perf_counter()
                result = attachment.add(f"{name}-{number}", ufrag, [(IPV4.transceiver, PORT)], PWD)
                answered = time.perf_counter()
                client.sendto(request, (str(vip.address), vip.port))
                if receiver.recv(2048) != request:
                    raise RuntimeError("something else was forwarded")
                forwarded = time.perf_counter()
            if result.code or datapath.sessions.get(key.tobytes()) is None:
                raise RuntimeError(f"the session was not stored: {result.message}")
            found.append(Sample(1e3 * (answered - start), 1e3 * (forwarded - start)))
    return found


def figures(samples: list[Sample]) -> dict[str, Any]:
    """A row's."""
    row: dict[str, Any] = {"samples": len(samples)}
    for field, values in zip(Sample._fields, zip(*samples, strict=True), strict=True):
        row |= {f"{field}_p{p}_ms": round(float(np.percentile(values, p)), 2) for p in (50, 99)}
    return row
