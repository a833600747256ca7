# SPDX-License-Identifier: Apache-2.0
"""What the tests of real calls lean on: what calls say is Opus and theirs, captures are read rightly."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from pathlib import Path

import av
import pytest

from tests.lab import heard, script
from tests.lab.heard import Heard, Stream, Way
from tests.lab.script import Script, marked
from tests.lab.signals import chirps, encode
from tests.lab.topology import VIP_PORT

PACKETS = [b"\x58" + bytes([number] * 40) for number in range(3)]
CLIENT, VIP, RELAY, VOICE = "198.51.100.10", "203.0.113.1", "10.20.0.1", "10.30.0.10"
UP, DOWN = 0x11111111, 0xEEEEEEEE


def test_a_marked_packet_is_what_it_was_to_a_decoder() -> None:
    said = encode(chirps(1, 1.0), script.FRAME_MS, "voip", 20_000)
    first = next(packet for packet in said if packet[0] & 3 == 0)
    samples = []
    for packet in (first, marked(first, 7, 9)):
        decoder = av.CodecContext.create("libopus", "r")
        frames = [*decoder.decode(av.Packet(packet)), *decoder.decode(None)]
        samples.append([frame.to_ndarray().tobytes() for frame in frames])
    assert samples[0] == samples[1]
    assert sum(map(len, samples[0])) > 0


def test_a_packet_of_several_frames_is_not_marked() -> None:
    with pytest.raises(ValueError, match="one frame"):
        marked(b"\x5b" + bytes(40), 1, 1)


def test_what_comes_back_is_told_from_what_is_foreign_or_damaged() -> None:
    mine, other = Script(1, packets=PACKETS), Script(2, packets=PACKETS)
    said = [mine.next() for _ in range(4)]
    mine.heard(said[3])
    mine.heard(said[0])
    assert (mine.sent, mine.returned, mine.strange) == (4, 2, 0)
    damaged = bytearray(said[1])
    damaged[5] ^= 1
    unsaid = marked(PACKETS[1], 1, 4)
    for packet in (other.next(), bytes(damaged), unsaid, b"", b"short"):
        mine.heard(packet)
    assert (mine.returned, mine.strange) == (2, 5)


def test_how_calls_fare_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "told.json"
    assert script.read(path) == (0.0, [])
    one = Script(1, "connected", CLIENT, 50000, packets=PACKETS)
    one.heard(one.next())
    script.write(path, [one])
    at, (read,) = script.read(path)
    assert at > 0
    assert (read.call, read.state, read.port, read.sent, read.returned) == (1, "connected", 50000, 1, 1)


def frame(source: str, sport: int, destination: str, dport: int, payload: bytes) -> bytes:
    udp = struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload
    ends = ip_address(source).packed + ip_address(destination).packed
    if ":" in source:
        return bytes(12) + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, len(udp), 17, 64) + ends + udp
    return bytes(12) + b"\x08\x00" + b"\x45" + bytes(11) + ends + udp


def rtp(number: int, ssrc: int, kind: int = 111) -> bytes:
    return struct.pack("!BBHII", 0x80, kind, number, 0, ssrc) + bytes(20)


def written(path: Path, packets: list[tuple[float, bytes]]) -> Path:
    data = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, heard.SNAP, 1)
    for at, packet in packets:
        kept = packet[: heard.SNAP]
        data += struct.pack("<IIII", int(at), round(at % 1 * 1e6), len(kept), len(packet)) + kept
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("client", "vip"), [(CLIENT, VIP), ("2001:db8:c::10", "2001:db8:f::1")], ids=["ipv4", "ipv6"]
)
def test_losses_and_gaps_of_both_ways_are_read_from_captures(tmp_path: Path, client: str, vip: str) -> None:
    said = {number: 100 + number / 10 for number in range(20)}

    def up(number: int) -> bytes:
        return frame(client, 50000, vip, VIP_PORT, rtp((65530 + number) & 0xFFFF, UP))

    def down(number: int) -> bytes:
        return frame(vip, VIP_PORT, client, 50000, rtp(number, DOWN))

    noise = [
        (100.0, frame(client, 50000, vip, VIP_PORT, bytes(40))),  # STUN
        (100.0, frame(client, 50000, vip, VIP_PORT, rtp(0, UP, 200))),  # RTCP
        (100.0, b"short"),
    ]
    outside = [*noise, *((at, up(number)) for number, at in said.items())]
    outside += [(at + 0.02, down(number)) for number, at in said.items() if number not in (5, 6, 7)]
    outside.append((101.0, down(9)))
    inside = [(at + 0.01, up(number)) for number, at in said.items() if number != 3]
    inside += [(at + 0.01, down(number)) for number, at in said.items()]
    streams = [
        heard._streams(written(tmp_path / f"{name}.pcap", packets))
        for name, packets in (("outside", outside), ("inside", inside))
    ]
    assert all(isinstance(stream, Stream) for one in streams for stream in one.values())
    (found,) = heard._calls(*streams, began=100.0, ended=102.0).items()
    assert found[0] == (client, 50000)
    assert rounded(found[1].up) == Way(sent=15, lost=1, repeated=0, gap=0.2, pause=0.1, slowest=0.01)
    assert rounded(found[1].down) == Way(sent=15, lost=3, repeated=1, gap=0.4, pause=0.1, slowest=0.01)


def test_a_call_that_is_not_heard_at_all_is_missing(tmp_path: Path) -> None:
    one = [(100.0, frame(CLIENT, 50000, VIP, VIP_PORT, rtp(1, UP)))]
    both = heard._streams(written(tmp_path / "one.pcap", one))
    assert heard._calls(both, both, 99.0, 101.0) == dict[tuple[str, int], Heard]()


def rounded(way: Way) -> Way:
    times = (round(seconds, 2) for seconds in (way.gap, way.pause, way.slowest))
    return Way(way.sent, way.lost, way.repeated, *times)
