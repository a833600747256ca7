# SPDX-License-Identifier: Apache-2.0
"""Candidates of the bench of whole paths: packets come through each of them translated, and back.

Their checksums hold; and a candidate that is broken on purpose is noticed. How fast anything is is not asked.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from dataclasses import replace

import pytest

from bench.path.__main__ import CANDIDATES, NO_RELAY
from bench.path.candidates import Case, Ready
from bench.path.load import Run, counted, run
from bench.path.plan import Way
from bench.path.traffic import ALL_PROBES
from tests.bpf import packets
from tests.lab.host import Host
from tests.lab.netns import Lab

pytestmark = [pytest.mark.root, pytest.mark.netns]

FLOWS = 100
SIZES = (80, 1200)
RATE = 2000  # packets a second: a relay may wait long for its turn before it loses one
SECONDS = 0.2
PROBES = 20
TIMEOUT = 5.0
SETTLED = 1.0  # seconds without another packet: what has not come by then is lost
CPU = min(os.sched_getaffinity(0))
OUTGOING = 4  # PACKET_OUTGOING
SO_RCVBUFFORCE = 33


def send(ready: Ready, size: int) -> Run:
    """With what arrived in the end, however late: somebody else may have had the CPU."""
    before = counted(ready)
    with ready.sources(size) as sources:
        made = run(ready, sources, [CPU], SECONDS, RATE)
    right, wrong = counted(ready)
    last = time.monotonic()
    while right + wrong - sum(before) < made.sent and time.monotonic() - last < SETTLED:
        time.sleep(0.01)
        if (now := counted(ready)) != (right, wrong):
            (right, wrong), last = now, time.monotonic()
    return replace(made, right=right - before[0], wrong=wrong - before[1])


def listen(host: Host, interface: str) -> socket.socket:
    """A packet socket at a link: what its sink passes on."""
    with host.inside():
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        made.bind((interface, 0))
    made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 23)
    made.settimeout(TIMEOUT)
    return made


def arrived(listener: socket.socket, way: Way) -> packets.Datagram:
    """The next packet of a way at its end; a checksum or a length that does not hold raises."""
    while True:
        frame, address = listener.recvfrom(2048)
        if address[2] == OUTGOING or b"\x80\x6f\x00\x01" not in frame:
            continue
        found = packets.parse(frame)
        flow = int.from_bytes(found.payload[way.due_tag_bytes + 8 : way.due_tag_bytes + 12], sys.byteorder)
        source, destination = (end.of(flow) for end in way.due)
        assert (found.dst, found.dport) == destination
        assert found.src == source[0]
        assert way.any_port or found.sport == source[1]
        return found


@pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])
@pytest.mark.parametrize("name", CANDIDATES)
def test_packets_come_through_translated(name: str, family: int) -> None:
    with Lab() as lab, CANDIDATES[name](lab, Case(family, FLOWS, pass_on=True)) as ready:
        site = ready.site
        with (
            listen(site.transceivers, site.out(site.transceivers)) as above,
            listen(site.clients, site.out(site.clients)) as below,
        ):
            for size in SIZES:
                made = send(ready, size)
                assert made.sent > 0
                assert (made.right, made.wrong) == (made.sent, 0)
                forms = ready.forms(size)
                for listener, way in ((above, forms.up), (below, forms.down)):
                    for _ in range(20):
                        arrived(listener, way)


@pytest.mark.parametrize("name", CANDIDATES)
def test_probes_come_back(name: str) -> None:
    with (
        Lab() as lab,
        CANDIDATES[name](lab, Case(4, FLOWS)) as ready,
        ready.sources(80) as (up, _),
    ):
        up.set(probe_mask=ALL_PROBES)
        up.send(PROBES)
        deadline = time.monotonic() + TIMEOUT
        while ready.down_sink.counts() != (PROBES, 0):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        trips = ready.down_sink.take_round_trips()
        assert len(trips) == PROBES
        assert (trips > 0).all()
        assert (trips < TIMEOUT * 1e9).all()
        assert len(ready.down_sink.take_round_trips()) == 0


@pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])
@pytest.mark.parametrize("name", [name for name in CANDIDATES if name != NO_RELAY])
def test_a_candidate_that_is_broken_on_purpose_is_noticed(name: str, family: int) -> None:
    with Lab() as lab, CANDIDATES[name](lab, Case(family, FLOWS, wrong=True)) as ready:
        made = send(ready, 80)
        assert made.wrong >= 0.4 * made.sent  # all that went up
        assert made.loss > 0.4


def test_packets_that_are_lost_are_noticed() -> None:
    """Half of the flows that are sent are not in the relay's table."""
    with Lab() as lab, CANDIDATES["earshot"](lab, Case(4, FLOWS)) as ready:
        more = replace(ready, case=replace(ready.case, flows=FLOWS * 2))
        made = send(more, 80)
        assert made.right < made.sent * 0.7
        assert made.right + made.wrong < made.sent


def test_several_cpus_send_their_own_flows() -> None:
    cpus = sorted(os.sched_getaffinity(0))
    with (
        Lab() as lab,
        CANDIDATES[NO_RELAY](lab, Case(4, FLOWS, pass_on=True)) as ready,
        ready.sources(80) as (up, down),
        listen(ready.site.transceivers, ready.site.out(ready.site.transceivers)) as above,
    ):
        for source in (up, down):
            source.set(shares={cpu: range(7 + number, 8 + number) for number, cpu in enumerate(cpus)})
        made = run(ready, (up, down), cpus, SECONDS, RATE)
        assert (made.right, made.wrong) == (made.sent, 0)
        seen = {arrived(above, ready.forms(80).up).sport for _ in range(made.sent // 4)}
        sender = ready.forms(80).up.sent[0]
        assert seen == {sender.of(7 + number)[1] for number in range(len(cpus))}
