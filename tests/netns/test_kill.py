# SPDX-License-Identifier: Apache-2.0
"""The daemon dies while calls go on: the kernel forwards, whether Python decides or not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.lab.calls import RTP, Call, call, payload, wait_for
from tests.lab.netns import Lab
from tests.lab.relay_client import RelayClient
from tests.lab.services import relay_target, start_relay
from tests.lab.topology import Site, two_armed

pytestmark = [pytest.mark.root, pytest.mark.netns]

ROUNDS = 200  # that have to come back in each phase


@pytest.fixture
def bare_site() -> Iterator[Site]:
    """A site of the test's own, in which nothing runs yet."""
    with Lab() as lab:
        yield two_armed(lab)


class Traffic:
    """Packets to and fro, one after the other, so that a single lost one ends it."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.rounds = 0
        self.ending = threading.Event()

    def run(self) -> None:
        while not self.ending.is_set():
            self.call.up(payload(RTP, 160))
            self.call.down(payload(RTP, 160))
            self.rounds += 1
            self.ending.wait(0.001)

    def wait_for_rounds(self) -> None:
        goal = self.rounds + ROUNDS
        wait_for(lambda: self.rounds >= goal, f"{goal} rounds")


def test_no_packet_is_lost_when_the_daemon_is_killed_and_started_again(bare_site: Site, family: int) -> None:
    site = bare_site
    daemon = start_relay(site)
    with (
        RelayClient(relay_target(site)) as relay,
        relay.attach("transceiver") as attachment,
        call(site, attachment, family) as made,
        ThreadPoolExecutor() as pool,
    ):
        made.bind()
        traffic = Traffic(made)
        running = pool.submit(traffic.run)
        try:
            traffic.wait_for_rounds()
            daemon.kill()
            daemon.wait(5)
            traffic.wait_for_rounds()
            start_relay(site)
            traffic.wait_for_rounds()
        finally:
            traffic.ending.set()
        running.result(10)
    with (
        RelayClient(relay_target(site)) as relay,
        relay.attach("transceiver") as attachment,
        call(site, attachment, family) as made,
    ):
        made.bind()
        made.down(payload(RTP, 160))
    assert site.stack_packets() == 0
