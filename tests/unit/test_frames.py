# SPDX-License-Identifier: Apache-2.0
"""Frames that people give to `earshot why`: from hex, from capture files, made up; and faults of theirs."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from control import frames, pcap_file
from control.addresses import parse_endpoint
from control.frames import FrameFault
from control.hmac_keys import hmac_sha1, key_states
from control.pcap_file import CaptureFault
from tests.bpf.packets import parse
from tests.lab.calls import STUN_PWD

CLIENT, VIP = parse_endpoint("198.51.100.7:40000"), parse_endpoint("203.0.113.1:3478")
CLIENT6, VIP6 = parse_endpoint("[2001:db8:c::7]:40000"), parse_endpoint("[2001:db8:f::1]:3478")
FRAME = frames.datagram(CLIENT, VIP, frames.rtp())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("00 11 2g", "line 1, character 8: 'g' is no hex digit (byte 2)"),
        ("00 11\n22 0x33", "line 2, character 5: 'x' is no hex digit (byte 3)"),
        ("00 11 2", "the last byte, number 2, has one hex digit"),
        ("", "it ends after 0 bytes"),
        ("00" * 13, "it ends after 13 bytes: an Ethernet header alone has 14"),
        ("00" * 3521, "a test run takes 3520 at the most"),
    ],
)
def test_hex_that_is_none(text: str, said: str) -> None:
    with pytest.raises(FrameFault) as caught:
        frames.from_hex(text)
    assert said in str(caught.value)


def test_hex_in_the_forms_that_tools_print() -> None:
    assert frames.from_hex(FRAME.hex()) == FRAME
    assert frames.from_hex(FRAME.hex(" ", 2).upper()) == FRAME
    assert frames.from_hex(FRAME.hex(":") + "\n") == FRAME


@pytest.mark.parametrize(("source", "destination"), [(CLIENT, VIP), (CLIENT6, VIP6)], ids=["v4", "v6"])
def test_what_is_made_up_has_checksums_that_are_right(
    source: frames.Endpoint, destination: frames.Endpoint
) -> None:
    for payload, kind in ((frames.rtp(), "RTP or RTCP"), (frames.dtls(), "DTLS")):
        made = frames.datagram(source, destination, payload)
        datagram = parse(made)
        assert (datagram.src, datagram.sport) == source
        assert (datagram.dst, datagram.dport) == destination
        assert datagram.payload == payload
        told = frames.read(made)
        assert (told.source, told.destination, told.payload) == (source, destination, payload)
        assert frames.class_of(told.payload) == kind


def test_a_request_is_one_that_an_agent_accepts() -> None:
    from aioice import stun

    inner, outer = key_states([STUN_PWD.encode()])
    made = frames.binding_request("Xk3f", lambda message: hmac_sha1(inner[0], outer[0], message))
    message = stun.parse_message(made)
    assert message.attributes["USERNAME"] == "Xk3f:why"
    unsigned = frames.binding_request("Xk3f", None)
    assert stun.parse_message(unsigned).attributes.keys() == message.attributes.keys() - {"MESSAGE-INTEGRITY"}
    again = stun.Message(
        stun.Method.BINDING,
        stun.Class.REQUEST,
        transaction_id=message.transaction_id,
        attributes={name: message.attributes[name] for name in ("USERNAME", "PRIORITY", "ICE-CONTROLLING")},
    )
    again.add_message_integrity(STUN_PWD.encode())
    assert again.attributes["MESSAGE-INTEGRITY"] == message.attributes["MESSAGE-INTEGRITY"]
    assert frames.class_of(made) == "STUN request"
    assert frames.is_request(made)


@pytest.mark.parametrize("length", [0, 1, 55, 56, 63, 64, 65, 500])
def test_an_hmac_of_key_states(length: int) -> None:
    import hmac

    inner, outer = key_states([b"a-password-of-22-bytes"])
    message = np.arange(length, dtype=np.uint8).tobytes()
    assert hmac_sha1(inner[0], outer[0], message) == hmac.digest(b"a-password-of-22-bytes", message, "sha1")


def test_two_families_do_not_go_together() -> None:
    with pytest.raises(FrameFault, match="not of one family"):
        frames.datagram(CLIENT, VIP6, b"")


@pytest.mark.parametrize("cut", range(0, len(FRAME), 7))
def test_a_frame_that_is_cut_short_is_told_as_far_as_it_goes(cut: int) -> None:
    told = frames.read(FRAME[:cut])
    assert told.source is None or told.source.address == CLIENT.address


# ---- captures ----------------------------------------------------------------------------


def pcap(*packets: bytes, link_type: int = 1, order: str = "<", missing: int = 0) -> bytes:
    made = struct.pack(f"{order}IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, link_type)
    for packet in packets:
        made += struct.pack(f"{order}IIII", 0, 0, len(packet), len(packet) + missing) + packet
    return made


def block(kind: int, body: bytes, order: str) -> bytes:
    body += bytes(-len(body) % 4)
    size = struct.pack(f"{order}I", len(body) + 12)
    return struct.pack(f"{order}I", kind) + size + body + size


def pcapng(*packets: bytes, order: str = "<", interface: int = 0) -> bytes:
    made = block(0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1), order)
    made += block(1, struct.pack(f"{order}HHI", 1, 0, 65535), order)
    made += block(0x0BAD, b"nobody knows it", order)
    for packet in packets:
        head = struct.pack(f"{order}IIIII", interface, 0, 0, len(packet), len(packet))
        made += block(6, head + packet, order)
    return made


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [pcap, pcapng])
def test_a_packet_of_a_file(tmp_path: Path, kind: type, order: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(kind(b"x" * 15, FRAME, order=order))
    assert pcap_file.packet(path, 2) == FRAME
    assert pcap_file.packet(path, 1) == b"x" * 15
    with pytest.raises(CaptureFault, match="it has 2 packets, and no packet 3"):
        pcap_file.packet(path, 3)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "offset 0: the file ends within the file's header"),
        (b"not a capture", "offset 0: 6e6f7420 begins neither"),
        (pcap(FRAME)[:-1], "offset 40: the file ends within packet 1"),
        (pcap(FRAME) + b"12345", f"packet 2, offset {40 + len(FRAME)}: the file ends within its header"),
        (pcap(FRAME, link_type=113), "packet 1: its link type is 113"),
        (pcap(FRAME, missing=9), f"{len(FRAME)} of its {len(FRAME) + 9} bytes were captured"),
        (pcapng(FRAME)[:-1], "the file ends within the block at offset"),
        (pcapng(FRAME, interface=1), "packet 1, offset"),
        (pcapng(FRAME)[:8] + b"\0\0\0\0" + pcapng(FRAME)[12:], "is no byte-order magic"),
        (pcapng(FRAME) + bytes(8), "0 is no block's length"),
    ],
)
def test_files_that_are_broken(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(CaptureFault) as caught:
        pcap_file.packet(path, 2 if "packet 2" in said or "block's length" in said else 1)
    assert said in str(caught.value)
