# SPDX-License-Identifier: Apache-2.0
"""Floods: a million forged packets of each kind, at a million a second where the machine can make them.

Established calls lose nothing, new ones connect, and what is forged reaches neither a transceiver
nor, beyond its session's budget, the flow table.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Network

import pytest

from tests.lab import flood
from tests.lab.calls import RTP, Call, binding_request, call, payload
from tests.lab.netns import Lab
from tests.lab.relay_client import Attachment, RelayClient
from tests.lab.services import relay_target, start_relay
from tests.lab.topology import IPV4, VIP_PORT, Site, two_armed

pytestmark = [pytest.mark.root, pytest.mark.netns]

FRAMES = 1_000_000
RATE = 1_000_000
SOURCES = IPv4Network("198.18.0.0/15")  # RFC 2544: for tests like this
CALLS = 20
NEW_CALLS = 10
INTERVAL = 0.02  # of a voice call's packets
DRAIN = 0.5


@dataclass(frozen=True)
class Kind:
    """One kind of flood, and what has to become of it."""

    name: str
    payload: Callable[[str], bytes]  # from the ufrag of a session that somebody has overheard
    reasons: frozenset[str]
    random_from: int | None = None


KINDS = (
    Kind("unknown ufrag", lambda _: binding_request("nobody00"), frozenset({"drop_unknown_ufrag"})),
    Kind(
        "wrong secret",
        lambda ufrag: binding_request(ufrag, "notThePwdOfThisSession"),
        frozenset({"drop_stun_integrity"}),
    ),
    Kind(
        "random bytes",
        lambda _: bytes(120),
        # Whatever the first byte makes of it.
        frozenset({"drop_not_rtc", "drop_no_flow", "drop_stun_cookie"}),
        random_from=0,
    ),
    Kind(
        "replay",
        binding_request,
        frozenset({"drop_session_budget", "forward_bound", "forward_to_transceiver"}),
    ),
)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A site with an attacker, who is a neighbour of the relay host by a link of his own."""
    with Lab() as lab:
        made = two_armed(lab)
        attacker = lab.host("attacker")
        lab.link(attacker, made.relay, ["198.51.101.10/24"], ["198.51.101.1/24"])
        made.relay.ip(f"route add {SOURCES} via 198.51.101.10")
        start_relay(made, "--interface=attacker")
        yield made


class Voice:
    """Calls of continuous traffic both ways; counts what arrives."""

    def __init__(self, calls: list[Call]) -> None:
        self._calls = calls
        self.sent = [0, 0]  # up, down
        self.received = [0, 0]
        self.ending = threading.Event()

    def run(self) -> None:
        """Sends until it is to end, then takes what is still on its way."""
        while not self.ending.is_set():
            for made in self._calls:
                made.client.sendto(payload(RTP, 160), made.vip)
                made.transceiver.sendto(payload(RTP, 160), made.peer)
            self.sent = [count + len(self._calls) for count in self.sent]
            self.ending.wait(INTERVAL)
            self._take()
        time.sleep(DRAIN)
        self._take()

    def _take(self) -> None:
        for made in self._calls:
            for way, receiver in enumerate((made.transceiver, made.client)):
                receiver.setblocking(False)
                while True:
                    try:
                        receiver.recv(2048)
                    except BlockingIOError:
                        break
                    self.received[way] += 1


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_calls_go_on_and_come_about_in_a_flood(
    site: Site, kind: Kind, record_property: Callable[[str, object], None]
) -> None:
    attacker = site.lab.hosts["attacker"]
    with (
        RelayClient(relay_target(site)) as relay,
        relay.attach("transceiver") as attachment,
        flood.on(attacker, "relay") as source,
        ExitStack() as calls,
        ThreadPoolExecutor() as pool,
    ):
        made = [calls.enter_context(call(site, attachment, 4)) for _ in range(CALLS)]
        overheard = calls.enter_context(call(site, attachment, 4))
        for one in (*made, overheard):
            one.bind(2)
        before = relay.counters()
        voice = Voice(made)
        talking = pool.submit(voice.run)
        flooding = pool.submit(
            source.send,
            FRAMES,
            RATE,
            kind.payload(overheard.ufrag),
            macs=_macs(site),
            destination=(IPV4.vip, VIP_PORT),
            sources=SOURCES,
            random_from=kind.random_from,
        )
        try:
            _connect(site, attachment)
            rate = flooding.result(60)
        finally:
            voice.ending.set()
        talking.result(60)
        moved = {
            reason: count - before[reason]
            for reason, count in relay.counters().items()
            if count > before[reason]
        }
    record_property("frames_per_second", round(rate))
    assert voice.received == voice.sent
    forged = sum(moved.get(reason, 0) for reason in kind.reasons)
    print(f"{kind.name}: {rate:,.0f} frames a second; {moved}")
    assert forged >= FRAMES * 0.99


def _connect(site: Site, attachment: Attachment) -> None:
    """New calls, while it floods."""
    for _ in range(NEW_CALLS):
        with call(site, attachment, 4) as made:
            made.bind(3)
            made.down(payload(RTP, 160))


def _macs(site: Site) -> tuple[bytes, bytes]:
    ends = ((site.relay, "attacker"), (site.lab.hosts["attacker"], "relay"))
    texts = [host.run("ip", "-brief", "link", "show", "dev", link).split()[2] for host, link in ends]
    return bytes.fromhex(texts[0].replace(":", "")), bytes.fromhex(texts[1].replace(":", ""))
