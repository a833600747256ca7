# SPDX-License-Identifier: Apache-2.0
"""What the program measures of RTP and of STUN, by packets one after the other, beside a plain computation.

Time is made to pass by moving what the program remembers into the past.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control import abi, quality
from control.abi import FlowState, Reason, Way
from control.quality import FlowQuality, StreamQuality
from tests.bpf import stun, world
from tests.bpf.case import RTCP, answer, from_backend, from_client, request
from tests.bpf.quality_model import Arrival, Plain
from tests.bpf.rig import Rig
from tests.bpf.world import BACKENDS, CAROL, CLIENTS, V4, V6

pytestmark = [pytest.mark.root, pytest.mark.netns]

SSRC = 0x12345678
FRAME = 960  # timestamp units of a packet of 20 ms
MS = 1_000_000  # ns


def rtp(sequence: int, timestamp: int | None = None, ssrc: int = SSRC, kind: int = 111) -> bytes:
    """An RTP packet; by default its timestamp goes with its number."""
    at = sequence * FRAME if timestamp is None else timestamp
    return struct.pack("!BBHII", 0x80, kind, sequence & 0xFFFF, at & 0xFFFFFFFF, ssrc) + bytes(60)


class Talk:
    """One flow, the family's live one, and what both ends send by it."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        rig.put_flow(V4)

    def up(self, payload: bytes) -> None:
        self.rig.send(from_client(V4, payload).frame(), CLIENTS)

    def down(self, payload: bytes) -> None:
        self.rig.send(from_backend(V4, payload).frame(), BACKENDS)

    def wait(self, nanoseconds: int) -> None:
        """All that was remembered is that much older."""
        first, more = self.rig.datapath.quality[V4.live], self.rig.datapath.quality_more[V4.live]
        for times in (first["streams"]["arrival"], more["streams"]["arrival"], more["trips"]["asked_at"]):
            times[times > 0] -= np.uint64(nanoseconds)
        for ticks in (first["streams"]["began"], more["streams"]["began"]):
            ticks -= np.uint32(nanoseconds >> abi.FLOW_TICK_SHIFT)

    def measured(self) -> FlowQuality:
        found = quality.of_flow(self.rig.datapath, V4.live, time.monotonic_ns())
        assert found is not None
        return found

    def only(self) -> StreamQuality:
        (stream,) = self.measured().streams
        return stream


@pytest.fixture
def talk(rig: Rig) -> Talk:
    return Talk(rig)


def counts(stream: StreamQuality) -> tuple[int, int, int, int, int]:
    return (stream.packets, stream.expected, stream.lost, stream.duplicates, stream.reordered)


# ---- sequence numbers ------------------------------------------------------------------------


def test_nothing_is_measured_before_the_first_packet(talk: Talk) -> None:
    assert talk.measured() == FlowQuality((), None, None, None, None, 0)


def test_both_ways_have_streams_of_their_own(talk: Talk) -> None:
    """Also where both have the same SSRC."""
    for number in range(5):
        talk.up(rtp(number))
    for number in range(3):
        talk.down(rtp(number))
    first, second = talk.measured().streams
    assert (first.direction, first.ssrc, counts(first)) == ("up", SSRC, (5, 5, 0, 0, 0))
    assert (second.direction, second.ssrc, counts(second)) == ("down", SSRC, (3, 3, 0, 0, 0))
    assert first.clock_rate == 48000


def test_sequence_numbers_wrap(talk: Talk) -> None:
    """65,535 is followed by 0; in between one is lost, one late and one double."""
    for number in (65533, 65534, 65535 + 1, 65535, 65535 + 3, 65535 + 3, 65535 + 4):
        talk.up(rtp(number))
    assert counts(talk.only()) == (6, 7, 1, 1, 1)


def test_what_comes_late_was_not_lost(talk: Talk) -> None:
    talk.up(rtp(10))
    talk.up(rtp(20))
    assert talk.only().lost == 9
    for number in range(11, 20):
        talk.up(rtp(number))
    assert counts(talk.only()) == (11, 11, 0, 0, 9)


def test_one_that_was_sent_before_the_first_to_come(talk: Talk) -> None:
    """It was expected, too, and so were those in between."""
    talk.up(rtp(10))
    talk.up(rtp(7))
    assert counts(talk.only()) == (2, 4, 2, 0, 1)
    talk.up(rtp(8))
    talk.up(rtp(8))
    assert counts(talk.only()) == (3, 4, 1, 1, 2)


def test_the_window_has_64_numbers(talk: Talk) -> None:
    """Within it, what comes twice is told from what comes late; what is older was late."""
    for number in range(100, 170):
        talk.up(rtp(number))
    talk.up(rtp(169 - 63))
    assert counts(talk.only()) == (70, 70, 0, 1, 0)
    talk.up(rtp(169 - 64))
    assert talk.only().reordered == 1


@pytest.mark.parametrize("jump", [64, 65, 2999])
def test_a_long_loss(talk: Talk, jump: int) -> None:
    talk.up(rtp(1))
    talk.up(rtp(1 + jump))
    talk.up(rtp(1 + jump))
    assert counts(talk.only()) == (2, jump + 1, jump - 1, 1, 0)


@pytest.mark.parametrize("jump", [3000, 32768, -101, -30000])
def test_numbers_begin_anew(talk: Talk, jump: int) -> None:
    """Only the second packet in a row proves it; then both count, and nothing was lost."""
    for number in range(1000, 1010):
        talk.up(rtp(number))
    before = talk.only()
    talk.up(rtp(1009 + jump))
    assert counts(talk.only()) == counts(before)
    talk.up(rtp(1010 + jump))
    talk.up(rtp(1012 + jump))
    after = talk.only()
    assert counts(after) == (13, 14, 1, 0, 0)
    assert after.restarts == 1
    talk.up(rtp(1010 + jump))
    assert talk.only().duplicates == 1


def test_one_stray_packet_is_not_of_the_stream(talk: Talk) -> None:
    talk.up(rtp(1))
    talk.up(rtp(20000))
    talk.up(rtp(2))
    talk.up(rtp(3))
    stream = talk.only()
    assert (counts(stream), stream.restarts) == ((3, 3, 0, 0, 0), 0)


def test_restarts_stop_at_15(talk: Talk) -> None:
    talk.up(rtp(0))
    for turn in range(1, 20):
        talk.up(rtp(turn * 4000))
        talk.up(rtp(turn * 4000 + 1))
    stream = talk.only()
    assert stream.restarts == 15
    assert stream.clock_rate == 48000
    assert counts(stream) == (39, 39, 0, 0, 0)


# ---- SSRCs -----------------------------------------------------------------------------------


def test_an_ssrc_changes(talk: Talk) -> None:
    """Both streams are there, each with its own numbers."""
    for number in range(5):
        talk.up(rtp(number))
    for number in (500, 502):
        talk.up(rtp(number, ssrc=SSRC + 1))
    first, second = talk.measured().streams
    assert (first.ssrc, counts(first)) == (SSRC, (5, 5, 0, 0, 0))
    assert (second.ssrc, counts(second)) == (SSRC + 1, (2, 3, 1, 0, 0))


def test_a_fifth_ssrc_finds_no_place(talk: Talk) -> None:
    """Until one of the four has been silent for five seconds: then it takes its place."""
    for number in range(3):
        for ssrc in range(1, 6):
            talk.up(rtp(number, ssrc=ssrc))
    found = talk.measured()
    assert [(one.ssrc, one.packets) for one in found.streams] == [(1, 3), (2, 3), (3, 3), (4, 3)]
    assert found.unmeasured_packets == 3
    talk.wait(5001 * MS)
    for ssrc in (1, 2, 4):
        talk.up(rtp(3, ssrc=ssrc))
    talk.down(rtp(1, ssrc=5))
    talk.down(rtp(1, ssrc=6))
    found = talk.measured()
    assert [(one.direction, one.ssrc, one.packets) for one in found.streams] == [
        ("up", 1, 4),
        ("up", 2, 4),
        ("up", 4, 4),
        ("down", 5, 1),
    ]
    assert found.unmeasured_packets == 4


def test_the_longest_silent_goes(talk: Talk) -> None:
    for ssrc in (1, 2, 3, 4):
        talk.up(rtp(1, ssrc=ssrc))
        talk.wait(6000 * MS)
    talk.up(rtp(2, ssrc=1))
    talk.up(rtp(1, ssrc=5))
    assert [one.ssrc for one in talk.measured().streams] == [1, 3, 4, 5]


def test_a_record_that_is_bound_anew_begins_anew(rig: Rig) -> None:
    talk = Talk(rig)
    talk.up(rtp(1))
    talk.down(rtp(1))
    rig.put_flow(V4, state=FlowState.LIVE | 100 << abi.FLOW_STATE_BITS)
    assert talk.measured().streams == ()
    talk.up(rtp(7))
    stream = talk.only()
    assert (stream.direction, counts(stream)) == ("up", (1, 1, 0, 0, 0))


@pytest.mark.parametrize(
    "payload",
    [
        RTCP,
        bytes.fromhex("80c0") + bytes(20),  # payload type 64 with the marker bit: RTCP's
        bytes.fromhex("80df") + bytes(20),
        rtp(1)[:11],
        b"\x16" + rtp(1)[1:],
    ],
    ids=["rtcp", "first of rtcp", "last of rtcp", "short", "dtls"],
)
def test_what_is_not_rtp_is_not_measured(talk: Talk, payload: bytes) -> None:
    talk.up(payload)
    talk.down(payload)
    assert talk.measured().streams == ()


def test_the_shortest_rtp_and_its_marker_bit(talk: Talk) -> None:
    talk.up(rtp(1, kind=0x80 | 111)[:12])
    talk.up(rtp(2, kind=63))
    talk.up(rtp(3, kind=96))
    assert talk.only().packets == 3


def test_what_is_not_forwarded_is_not_measured(talk: Talk) -> None:
    """From another than the flow's transceiver."""
    stranger = from_backend(V4, rtp(1), backend=V4.backends.other)
    assert talk.rig.run(stranger.frame(), BACKENDS).reason == Reason.DROP_WRONG_BACKEND
    assert talk.measured().streams == ()


# ---- time ------------------------------------------------------------------------------------


def test_gaps(talk: Talk) -> None:
    talk.up(rtp(1))
    for number, spacing in enumerate((100, 150, 250, 20, 1200, 300), 2):
        talk.wait(spacing * MS)
        talk.up(rtp(number))
    stream = talk.only()
    assert stream.gaps == 3
    assert 1200 <= stream.longest_gap_ms < 2000


def test_a_gap_longer_than_can_be_told(talk: Talk) -> None:
    """And one of which jitter cannot be said."""
    talk.up(rtp(1))
    talk.wait(69_000 * MS)
    talk.up(rtp(2))
    stream = talk.only()
    assert (stream.gaps, stream.longest_gap_ms, stream.jitter_ms) == (1, 65535, 0)


def test_a_sender_that_sets_its_clock(talk: Talk) -> None:
    """A minute: that is no jitter."""
    talk.up(rtp(1))
    talk.up(rtp(2, timestamp=60 * 48000))
    talk.up(rtp(3, timestamp=60 * 48000 + FRAME))
    assert talk.only().peak_jitter_ms < 5


def test_packets_per_second_and_when_it_was_last_heard(talk: Talk) -> None:
    talk.up(rtp(0))
    assert talk.only().packets_per_second is None
    for number in range(1, 101):
        talk.wait(20 * MS)
        talk.up(rtp(number))
    talk.wait(3000 * MS)
    stream = talk.only()
    assert stream.packets_per_second is not None
    assert 40 < stream.packets_per_second < 51
    assert 3 <= stream.last_seen_s < 10


def test_the_clock_rate_of_the_session(rig: Rig) -> None:
    """As it was when the flow was bound; a millisecond is a sixth of the units then."""
    ufrags, sessions = rig.datapath.read_sessions()
    sessions["flags"] |= 8000 // abi.CLOCK_UNIT << abi.SESSION_CLOCK_SHIFT
    rig.datapath.put_sessions(ufrags, sessions)
    assert rig.run(request(V4).frame()).reason == Reason.FORWARD_BOUND
    record = V4.free[0]
    for number in range(40):
        rig.send(from_client(V4, rtp(number, timestamp=number * 160)).frame(), CLIENTS)
        rig.datapath.quality["streams"]["arrival"][record] -= np.uint64(20 * MS)
    found = quality.of_flow(rig.datapath, record, time.monotonic_ns())
    assert found is not None
    (stream,) = found.streams
    assert stream.clock_rate == 8000
    assert stream.jitter_ms < 15  # by 48 kHz it would be near 17: 160 units are 3.3 ms there, not 20


class Packet(NamedTuple):
    """The next packet: its number and timestamp against the newest's, and the time since the last, in ms."""

    ahead: int
    shift: int
    spacing: float


packets = st.builds(
    Packet,
    st.one_of(*[st.just(1)] * 4, st.integers(-40, 60), st.integers(-3, 3), st.just(200)),
    st.one_of(st.just(0), st.integers(-3000, 3000)),
    st.one_of(st.just(20.0), st.floats(0, 60), st.floats(0, 60), st.floats(150, 2000)),
)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    first=st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)),
    row=st.lists(packets, min_size=1, max_size=40),
    is_up=st.booleans(),
    clock_rate=st.sampled_from([8000, 16000, 44100, 48000, 90000]),
)
def test_like_a_plain_computation(
    rig: Rig, first: tuple[int, int], row: list[Packet], is_up: bool, clock_rate: int
) -> None:
    rig.reset()
    talk = Talk(rig)
    record = rig.datapath.quality[V4.live : V4.live + 1]
    more = rig.datapath.quality_more[V4.live : V4.live + 1]
    more["binding"] = rig.datapath.flows["state"][V4.live] & ~np.uint32(15)
    more["clock"] = clock_rate // abi.CLOCK_UNIT
    way = Way.UP if is_up else Way.DOWN
    send = talk.up if is_up else talk.down
    plain = Plain(clock_rate)

    def take(extended: int, timestamp: int) -> None:
        before = int(record["streams"]["arrival"][0, way])
        send(rtp(extended, timestamp))
        # Time goes on by what the program saw pass since the last one: what was moved, and the real time.
        passed = int(record["streams"]["arrival"][0, way]) - before if plain.seen else 0
        now = plain.arrivals[-1].nanoseconds + passed if plain.seen else 0
        plain.add(Arrival(extended & 0xFFFF, timestamp & 0xFFFFFFFF, now))

    base, start = first
    take(base, start)
    oldest = base
    for packet in row:
        newest = base + max(plain.seen) - plain.seen[0]
        extended = max(newest + packet.ahead, oldest - 20)
        talk.wait(int(packet.spacing * MS))
        take(extended, start + (extended - base) * clock_rate // 50 + packet.shift)
        oldest = min(oldest, extended)
    stream = talk.only()
    assert counts(stream) == (
        *(plain.packets, plain.expected, plain.expected - plain.packets),
        *(plain.duplicates, plain.reordered),
    )
    unit_ms = 1e3 / clock_rate
    assert stream.jitter_ms == pytest.approx(plain.jitters_ms[-1], rel=0.01, abs=unit_ms / 4)
    peak_ms = min(max(plain.jitters_ms), 0xFFFF * unit_ms)  # 16 bits: it stays at their largest value
    assert stream.peak_jitter_ms == pytest.approx(peak_ms, rel=0.01, abs=1.1 * unit_ms)
    assert stream.gaps == len(plain.gaps)
    assert stream.longest_gap_ms == int(max(plain.gaps, default=0))


# ---- round trips -----------------------------------------------------------------------------


def asked(number: int) -> bytes:
    return b"%4dquestion" % number


def test_the_transceivers_answer_is_timed(talk: Talk) -> None:
    talk.up(request(V4, transaction=asked(1)).payload)
    talk.wait(40 * MS)
    talk.down(answer(V4, transaction=asked(1)).payload)
    found = talk.measured()
    assert found.transceiver_rtt_ms is not None
    assert 40 <= found.transceiver_rtt_ms < 1000
    assert found.transceiver_rtt_age_s is not None
    assert found.transceiver_rtt_age_s < 10
    assert found.client_rtt_ms is None


def test_the_clients_answer_is_timed(talk: Talk) -> None:
    talk.down(stun.signed(stun.message(stun.REQUEST, transaction=asked(1)), world.PWD))
    talk.wait(70 * MS)
    talk.up(stun.signed(stun.message(stun.RESPONSE, transaction=asked(1)), world.PWD))
    found = talk.measured()
    assert found.client_rtt_ms is not None
    assert 70 <= found.client_rtt_ms < 1000
    assert found.transceiver_rtt_ms is None


def test_the_binding_request_itself_is_timed(rig: Rig) -> None:
    """Of a session with a pwd, and of one without, whose flow becomes one only by the answer."""
    for ufrag in (world.ALICE, CAROL):
        rig.reset()
        record = V6.free[0]
        asking, answering = request(V6, ufrag), answer(V6, record)
        assert rig.run(asking.frame()).action == "REDIRECT"
        assert rig.run(answering.frame(), BACKENDS).reason == Reason.FORWARD_TO_CLIENT
        found = quality.of_flow(rig.datapath, record, time.monotonic_ns())
        assert found is not None
        assert found.transceiver_rtt_ms is not None


Story = Callable[[Talk], None]


def other_answer(talk: Talk) -> None:
    talk.up(request(V4, transaction=asked(1)).payload)
    talk.down(answer(V4, transaction=asked(2)).payload)


def refusal(talk: Talk) -> None:
    talk.up(request(V4, transaction=asked(1)).payload)
    talk.down(answer(V4, transaction=asked(1), kind=stun.ERROR).payload)


def asked_twice(talk: Talk) -> None:
    """The answer may be to either."""
    for _ in range(3):
        talk.up(request(V4, transaction=asked(1)).payload)
    talk.down(answer(V4, transaction=asked(1)).payload)


def unasked(talk: Talk) -> None:
    talk.down(answer(V4, transaction=bytes(12)).payload)
    talk.up(stun.message(stun.RESPONSE, transaction=bytes(12)))


def wrong_side(talk: Talk) -> None:
    talk.up(request(V4, transaction=asked(1)).payload)
    talk.up(stun.message(stun.RESPONSE, transaction=asked(1)))


@pytest.mark.parametrize("story", [other_answer, refusal, asked_twice, unasked, wrong_side])
def test_no_round_trip(talk: Talk, story: Story) -> None:
    story(talk)
    found = talk.measured()
    assert (found.transceiver_rtt_ms, found.client_rtt_ms) == (None, None)


def test_one_request_is_waited_for_until_a_second_has_passed(talk: Talk) -> None:
    """An agent that asks faster than answers come would otherwise never be timed."""
    talk.up(request(V4, transaction=asked(1)).payload)
    talk.wait(300 * MS)
    talk.up(request(V4, transaction=asked(2)).payload)
    talk.down(answer(V4, transaction=asked(2)).payload)
    assert talk.measured().transceiver_rtt_ms is None
    talk.down(answer(V4, transaction=asked(1)).payload)
    first = talk.measured().transceiver_rtt_ms
    assert first is not None
    assert first >= 300
    talk.up(request(V4, transaction=asked(3)).payload)
    talk.wait(1001 * MS)
    talk.up(request(V4, transaction=asked(4)).payload)
    talk.wait(10 * MS)
    talk.down(answer(V4, transaction=asked(4)).payload)
    second = talk.measured().transceiver_rtt_ms
    assert second is not None
    assert second < 300


# ---- many at once ----------------------------------------------------------------------------


def test_many_flows_at_once_are_the_same_as_one_by_one(rig: Rig) -> None:
    talk = Talk(rig)
    for number in (1, 2, 4):
        talk.up(rtp(number))
        talk.down(rtp(number, ssrc=number))
    numbers = np.arange(len(rig.datapath.flows), dtype=np.uint32)
    now = time.monotonic_ns()
    (found,) = quality.of_flows(rig.datapath, numbers, now)
    streams, trips = found
    one = quality.of_flow(rig.datapath, V4.live, now)
    assert one is not None
    assert streams.flow.tolist() == [V4.live] * 4
    assert sorted(streams.ssrc.tolist()) == sorted(stream.ssrc for stream in one.streams)
    assert sorted(streams.lost.tolist()) == sorted(stream.lost for stream in one.streams)
    assert np.isnan(trips.client_rtt_ms).all()
    assert len(trips.flow) == len(numbers)


def test_switched_off(rig: Rig) -> None:
    class Off:
        flows = rig.datapath.flows
        quality = rig.datapath.quality[:1]
        quality_more = rig.datapath.quality_more[:1]

    off = Off()
    assert not quality.is_on(off)
    assert quality.of_flow(off, V4.live, 0) is None
    assert list(quality.of_flows(off, np.array([V4.live], np.uint32), 0)) == []
