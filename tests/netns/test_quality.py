# SPDX-License-Identifier: Apache-2.0
"""What the relay measures of a call, beside what tshark says of a capture of the same packets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aioice import stun
from earshot.relay.v1 import relay_pb2 as pb

from control import pinned, quality
from control.abi import FlowState
from control.datapath import Datapath
from control.flows import in_state
from control.quality import FlowQuality, StreamQuality
from tests.bpf.quality_model import Arrival, Plain
from tests.lab.calls import STUN_PWD, Call, binding_request, binding_response, call, wait_for
from tests.lab.netns import Lab
from tests.lab.relay_client import Attachment, RelayClient
from tests.lab.rtp import (
    SDP_PORT,
    Told,
    Voice,
    announcement,
    captured,
    heard_by_tshark,
    send,
    told_by_tshark,
)
from tests.lab.services import relay_target, start_relay
from tests.lab.topology import Site, two_armed

pytestmark = [pytest.mark.root, pytest.mark.netns]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Lab() as lab:
        made = two_armed(lab)
        start_relay(made)
        yield made


@pytest.fixture
def attachment(site: Site) -> Iterator[Attachment]:
    with RelayClient(relay_target(site)) as client, client.attach("transceiver") as made:
        yield made


@pytest.fixture
def datapath(site: Site) -> Iterator[Datapath]:
    opened = pinned.open_pinned(site.lab.pins)
    yield opened
    opened.close()


def number_of(datapath: Datapath, made: Call) -> int:
    """The record of a call's flow: it has its relay port."""
    (number,) = [
        one
        for one in in_state(datapath.flows["state"], FlowState.LIVE).tolist()
        if datapath.relay_endpoint(one).port == made.peer[1]
    ]
    return int(number)


def measured(datapath: Datapath, made: Call) -> FlowQuality:
    found = quality.of_flow(datapath, number_of(datapath, made), time.monotonic_ns())
    assert found is not None
    return found


def register(attachment: Attachment, made: Call, clock_rate: int) -> None:
    """The same session once more, with a clock rate."""
    address, port = made.transceiver.getsockname()[:2]
    result = attachment.add_session(
        pb.Session(
            session_id=made.session_id,
            credentials=[pb.Credential(ufrag=made.ufrag, pwd=STUN_PWD)],
            endpoints=[pb.Endpoint(address=address, port=port)],
            rtp_clock_rate=clock_rate,
        )
    )
    assert result.code == 0, result


def same(stream: StreamQuality, told: Told) -> None:
    """Loss is equal, jitter within 5 %."""
    assert stream.packets + stream.duplicates == told.packets
    assert stream.lost - stream.duplicates == told.lost
    assert stream.peak_jitter_ms == pytest.approx(told.max_jitter_ms, rel=0.05)


CODECS = {48000: (111, "opus/48000/2"), 8000: (0, "PCMU/8000")}


@pytest.mark.parametrize("clock_rate", [48000, pytest.param(8000, marks=pytest.mark.nightly)])
def test_like_tshark(
    site: Site, attachment: Attachment, datapath: Datapath, tmp_path: Path, clock_rate: int
) -> None:
    """Both ways at once, with loss, reordering and duplicates; one SSRC follows another on the way up."""
    kind, name = CODECS[clock_rate]
    up = (
        Voice(1, clock_rate, kind, 150, lost=(20, 40, 41, 42, 90), late=(60, 100), jitter=0.008),
        Voice(2, clock_rate, kind, 120, lost=(7, 8), double=(30, 50, 51), late=(80,), jitter=0.008),
    )
    down = Voice(3, clock_rate, kind, 250, lost=tuple(range(100, 140)), double=(200,), jitter=0.02)
    with call(site, attachment, 4, (site.addresses[4].client, 0)) as made:
        register(attachment, made, clock_rate if clock_rate != 48000 else 0)
        made.bind()
        client = made.client.getsockname()
        with captured(site, tmp_path / "call.pcap"):
            made.client.sendto(announcement(*client, {kind: name}), (made.vip[0], SDP_PORT))
            send(
                [
                    *((one, lambda data: made.client.sendto(data, made.vip)) for one in up[0].plan()),
                    *((one, lambda data: made.client.sendto(data, made.vip)) for one in up[1].plan(1.6)),
                    *((one, lambda data: made.transceiver.sendto(data, made.peer)) for one in down.plan()),
                ]
            )
            wait_for(
                lambda: sum(one.packets for one in measured(datapath, made).streams) == 473, "all packets"
            )
        found = measured(datapath, made)
    told = told_by_tshark(tmp_path / "call.pcap")
    assert len(told) == 3, told
    heard = heard_by_tshark(tmp_path / "call.pcap")
    by_ssrc = {stream.ssrc: stream for stream in found.streams}
    for (_, ssrc), theirs in told.items():
        same(by_ssrc[ssrc], theirs)
        # Of each packet by itself, since tshark sums up only the largest and the mean.
        plain = Plain(clock_rate)
        for one in heard:
            if one.ssrc == ssrc:
                plain.add(Arrival(one.sequence, one.timestamp, one.nanoseconds))
        stream = by_ssrc[ssrc]
        print(
            f"{clock_rate} Hz, {stream.direction}: lost {stream.lost} of {stream.expected}, "
            f"tshark {theirs.lost}; "
            f"jitter {stream.jitter_ms:.3f} ms, by its packets {plain.jitters_ms[-1]:.3f}; "
            f"at most {stream.peak_jitter_ms:.3f}, tshark {theirs.max_jitter_ms:.3f}"
        )
        assert stream.clock_rate == clock_rate
        assert stream.jitter_ms == pytest.approx(plain.jitters_ms[-1], rel=0.05)
        assert (stream.packets, stream.expected) == (plain.packets, plain.expected)
        assert (stream.duplicates, stream.reordered) == (plain.duplicates, plain.reordered)
        assert stream.gaps == len(plain.gaps)
    assert [(stream.direction, stream.ssrc, stream.lost) for stream in found.streams] == [
        ("up", 1, 5),
        ("up", 2, 2),
        ("down", 3, 40),
    ]
    assert (by_ssrc[1].reordered, by_ssrc[2].duplicates, by_ssrc[3].duplicates) == (2, 3, 1)
    assert by_ssrc[3].gaps == 1
    assert by_ssrc[3].longest_gap_ms >= 390


def test_round_trips(site: Site, attachment: Attachment, datapath: Datapath) -> None:
    """Both sides ask, and answer after a time that is known at the least."""
    with call(site, attachment, 4) as made:
        made.bind()
        time.sleep(1.1)  # so long the answer to the very first request is waited for
        question = binding_request(made.ufrag)
        made.up(question)
        time.sleep(0.03)
        made.down(binding_response(question, made.peer))
        question = bytes(stun.Message(stun.Method.BINDING, stun.Class.REQUEST))
        made.down(question)
        time.sleep(0.06)
        made.up(binding_response(question, made.vip))
        found = measured(datapath, made)
    assert found.transceiver_rtt_ms is not None
    assert found.client_rtt_ms is not None
    assert found.transceiver_rtt_ms >= 30
    assert found.client_rtt_ms >= 60
    assert found.streams == ()
