# SPDX-License-Identifier: Apache-2.0
"""What the program tells of its packets to whoever looks, and to nobody else."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from control import abi
from control.abi import Reason
from control.addresses import Endpoint
from control.taps.filters import Filter
from control.taps.packets import Packet
from control.taps.tap import BusyError, Tap
from tests.bpf import stun, world
from tests.bpf.case import from_backend, from_client, request
from tests.bpf.packets import Datagram
from tests.bpf.rig import Rig
from tests.bpf.world import BACKENDS, CLIENTS, FAMILIES, V4, V6, Family

pytestmark = [pytest.mark.root, pytest.mark.netns]

RING = 1 << 18
Look = Callable[..., Tap]


@pytest.fixture(params=FAMILIES, ids=["v4", "v6"])
def family(request: pytest.FixtureRequest) -> Family:
    made: Family = request.param
    return made


@pytest.fixture
def look(rig: Rig) -> Iterator[Look]:
    """Opens taps, which are closed in the end."""
    taps = []

    def make(wanted: Filter | None = None, *, snap: int = 2048, ring_bytes: int = RING) -> Tap:
        tap = Tap(rig.pin_path, wanted or Filter(), snap=snap, ring_bytes=ring_bytes)
        taps.append(tap)
        return tap

    yield make
    for tap in taps:
        tap.close()


def client_of(family: Family) -> Endpoint:
    return Endpoint(family.client.address, family.client.port)


def send(rig: Rig, datagram: Datagram, link: str = CLIENTS) -> bytes:
    return rig.send(datagram.frame(), link).data


def reasons(packets: list[Packet]) -> list[str]:
    return [packet.reason for packet in packets]


def test_a_call_both_ways_before_and_after(rig: Rig, family: Family, look: Look) -> None:
    tap = look()
    sent = [
        (request(family), CLIENTS),
        (from_client(family, b"\x80media"), CLIENTS),
        (from_backend(family, b"\x80answer", record=family.free[0]), BACKENDS),
    ]
    came_out = [send(rig, datagram, link) for datagram, link in sent]
    told = tap.read()
    assert reasons(told) == ["forward_bound", "forward_to_transceiver", "forward_to_client"]
    assert [packet.before for packet in told] == [datagram.frame() for datagram, _ in sent]
    assert [packet.after for packet in told] == came_out
    assert [packet.direction for packet in told] == ["to_transceiver", "to_transceiver", "to_client"]
    assert {packet.client for packet in told} == {client_of(family)}
    assert [packet.ifindex for packet in told] == [rig.ifindex[link] for _, link in sent]
    assert [packet.egress for packet in told] == [
        rig.ifindex[BACKENDS],
        rig.ifindex[BACKENDS],
        rig.ifindex[CLIENTS],
    ]
    assert {packet.action for packet in told} == {"REDIRECT"}
    assert [packet.headers.kind for packet in told] == ["stun_request", "rtp", "rtp"]
    assert tap.newly_lost() == 0


def test_drops_have_no_frame_afterwards(rig: Rig, family: Family, look: Look) -> None:
    tap = look()
    datagram = from_client(family, b"\x80media")
    send(rig, datagram)
    (told,) = tap.read()
    assert (told.reason, told.action, told.after, told.egress) == ("drop_no_flow", "DROP", None, None)
    assert told.before == datagram.frame()


def test_what_is_passed_to_the_host_is_told_of_only_if_asked_for(rig: Rig, look: Look) -> None:
    silent, asked = look(), look(Filter(reasons=frozenset({Reason.PASS_NOT_IP})))
    arp = bytes(12) + b"\x08\x06" + bytes(46)
    rig.send(arp, CLIENTS)
    assert silent.read() == []
    (told,) = asked.read()
    assert (told.reason, told.action, told.direction, told.client) == ("pass_not_ip", "PASS", None, None)
    assert told.before == arp
    assert told.headers.source is None


def test_by_client(rig: Rig, family: Family, look: Look) -> None:
    client = client_of(family)
    exact, any_port = look(Filter(client=tuple(client))), look(Filter(client=(client.address, None)))
    other = from_client(family, b"\x80other", client=Endpoint(client.address, client.port + 1))
    send(rig, request(family))
    send(rig, from_backend(family, b"\x80answer", record=family.free[0]), BACKENDS)
    send(rig, from_backend(family, b"\x80strange", record=family.live), BACKENDS)  # nobody's
    send(rig, other)
    assert reasons(exact.read()) == ["forward_bound", "forward_to_client"]
    assert reasons(any_port.read()) == ["forward_bound", "forward_to_client", "drop_no_flow"]


def test_by_vip(rig: Rig, look: Look) -> None:
    tap = look(Filter(vip=Endpoint(V6.vip.address, V6.vip.port)))
    for family in (V4, V6):
        send(rig, request(family))
        send(rig, from_backend(family, b"\x80answer", record=family.free[0]), BACKENDS)
    told = tap.read()
    assert reasons(told) == ["forward_bound", "forward_to_client"]
    assert {packet.client for packet in told} == {client_of(V6)}


def test_a_vip_of_no_relay_here_is_refused(look: Look) -> None:
    with pytest.raises(LookupError, match="no VIP"):
        look(Filter(vip=Endpoint(V4.client.address, 9)))


def test_by_ufrag(rig: Rig, family: Family, look: Look) -> None:
    ufrag = world.ALICE.decode()
    tap, unknown = look(Filter(ufrag=ufrag)), look(Filter(ufrag="nobody"))
    assert tap.notes == []
    assert "no session" in unknown.notes[0]
    send(rig, from_client(family, b"\x80too early"))
    send(rig, request(family))
    send(rig, from_client(family, b"\x80media"))
    send(rig, from_backend(family, b"\x80answer", record=family.free[0]), BACKENDS)
    send(rig, from_client(family, stun.request(b"nobody:peer", b"a pwd of nobody at all")))
    assert reasons(tap.read()) == [
        "forward_bound",
        "forward_to_transceiver",
        "forward_to_client",
        "drop_unknown_ufrag",  # another's, by whoever is in this session's call
    ]
    (told,) = unknown.read()
    assert (told.reason, told.headers.ufrag) == ("drop_unknown_ufrag", "nobody")


def test_by_reason_and_drops_only(rig: Rig, family: Family, look: Look) -> None:
    drops = look(Filter(drops_only=True))
    bound = look(Filter(reasons=frozenset({Reason.FORWARD_BOUND, Reason.DROP_EMPTY})))
    neither = look(Filter(reasons=frozenset({Reason.FORWARD_BOUND}), drops_only=True))
    send(rig, request(family))
    send(rig, from_client(family, b"\xffnothing of ours"))
    assert reasons(drops.read()) == ["drop_not_rtc"]
    assert reasons(bound.read()) == ["forward_bound"]
    assert neither.read() == []


def test_frames_are_cut_to_the_length_asked_for(rig: Rig, family: Family, look: Look) -> None:
    datagram = from_client(family, b"\x80" + bytes(range(200)))
    send(rig, request(family))
    for snap in (0, 20, 64, 65, 150):
        tap = look(snap=snap)
        out = send(rig, datagram)
        (told,) = tap.read()
        assert told.length == len(datagram.frame())
        assert (told.before, told.after) == (datagram.frame()[:snap], out[:snap])
        tap.stop()


def test_a_sample_is_some_of_them(rig: Rig, look: Look) -> None:
    tap = look(Filter(sample=4))
    for _ in range(400):
        send(rig, from_client(V4, b"\x80media"))
    # 100 expected, a standard deviation of 8.7: ten of them to either side.
    assert 13 < len(tap.read()) < 187


def test_what_finds_no_room_is_counted(rig: Rig, look: Look) -> None:
    tap = look(ring_bytes=4096)
    for _ in range(100):
        send(rig, from_client(V4, b"\x80" + bytes(150)))
    told, lost = len(tap.read()), tap.newly_lost()
    assert told > 0
    assert told + lost == 100
    assert tap.newly_lost() == 0
    send(rig, from_client(V4, b"\x80" + bytes(150)))
    assert len(tap.read()) == 1


def test_a_tap_that_nobody_puts_off_tells_nothing(rig: Rig, look: Look) -> None:
    tap = look()
    taps = rig.taps()
    assert taps["until"][0] > 0
    taps["until"][0] = taps["taps"]["until"][0, 0] = 1
    send(rig, from_client(V4))
    assert tap.read() == []
    assert tap.newly_lost() == 0


def test_closing_leaves_nothing(rig: Rig, look: Look) -> None:
    one, other = look(), look()
    one.stop()
    send(rig, from_client(V4))
    assert one.read() == []
    assert len(other.read()) == 1
    other.stop()
    assert rig.taps()["until"][0] == 0


def test_there_is_room_for_a_few(look: Look) -> None:
    for _ in range(abi.TAP_MAX):
        look()
    with pytest.raises(BusyError):
        look()


def test_a_tap_changes_no_packet_and_no_other_map(rig: Rig, family: Family, look: Look) -> None:
    untold = rig.run(request(family).frame())
    rig.reset()
    look(Filter(ufrag=world.ALICE.decode()))
    told = rig.run(request(family).frame())
    assert (told.action, told.frame, told.reason) == (untold.action, untold.frame, untold.reason)
    assert np.array_equal(told.after.flows["up_packets"], untold.after.flows["up_packets"])


def test_damaged_and_short_frames(rig: Rig, family: Family, look: Look) -> None:
    tap = look(Filter(reasons=frozenset(Reason)))
    frame = request(family).frame()
    for length in range(14, len(frame)):
        rig.send(frame[:length], CLIENTS)
    told = tap.read()
    assert [packet.before for packet in told] == [frame[:length] for length in range(14, len(frame))]
    assert {packet.headers.kind for packet in told} == {"other", "stun_request"}
