# SPDX-License-Identifier: Apache-2.0
"""What trace and capture are made of, without a kernel: filters, headers, files."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from control import abi
from control.abi import Reason
from control.cli.main import cli
from control.taps import frames, pcapng
from control.taps.filters import Filter, parse_reason, parse_ufrag
from control.taps.packets import reason_name

COOKIE = b"\x21\x12\xa4\x42"


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (b"\x00\x01\x00\x00" + COOKIE + bytes(12), "stun_request"),
        (b"\x00\x11\x00\x00" + COOKIE + bytes(12), "stun_indication"),
        (b"\x01\x01\x00\x00" + COOKIE + bytes(12), "stun_response"),
        (b"\x01\x11\x00\x00" + COOKIE + bytes(12), "stun_response"),
        (b"\x00\x01\x00\x00" + bytes(16), "other"),
        (b"\x00\x01\x00\x00" + COOKIE, "other"),
        (b"\x16\xfe\xfd", "dtls"),
        (b"\x80\x6f", "rtp"),
        (b"\x80\xef", "rtp"),  # a marker bit and payload type 111
        (b"\x81\xc8", "rtcp"),
        (b"\x80", "rtp"),
        (b"\x50", "other"),
        (b"", "other"),
    ],
)
def test_classes(payload: bytes, kind: str) -> None:
    assert frames.kind_of(payload) == kind
    assert kind in frames.CLASSES


def test_no_frame_is_too_odd_to_be_read() -> None:
    generator = np.random.default_rng(7)
    for ethertype in (b"\x08\x00", b"\x86\xdd", b"\x81\x00"):
        for length in range(120):
            body = generator.bytes(length)
            for version in (b"\x45", b"\x4f", b"\x60", b"\x00"):
                headers = frames.read(bytes(12) + ethertype + version + body)
                assert headers.kind in frames.CLASSES


def test_a_ufrag_that_would_spoil_a_terminal_does_not_reach_it() -> None:
    name = b"a\x1b[2J\n:b"
    attribute = struct.pack("!HH", 6, len(name)) + name + bytes(-len(name) % 4)
    udp = struct.pack("!HHHH", 1, 2, 0, 0) + b"\x00\x01\x00\x00" + COOKIE + bytes(12) + attribute
    ip = b"\x45" + bytes(8) + b"\x11" + bytes(10)
    assert frames.read(bytes(12) + b"\x08\x00" + ip + udp).ufrag == "a.[2J."


def wanted(filter: Filter) -> set[int]:
    tap = np.zeros(1, abi.TAP)[0]
    filter.enter(tap)
    bits = int(tap["reasons"][0]) | int(tap["reasons"][1]) << 64
    return {number for number in range(128) if bits >> number & 1}


def test_which_reasons_are_wanted() -> None:
    passed = {reason for reason in Reason if reason.name.startswith("PASS")}
    forwarded = {reason for reason in Reason if reason.name.startswith("FORWARD")}
    assert wanted(Filter()) == set(range(128)) - passed
    assert wanted(Filter(drops_only=True)) == set(range(128)) - passed - forwarded
    assert wanted(Filter(reasons=frozenset({Reason.PASS_VLAN}))) == {Reason.PASS_VLAN}
    one = frozenset({Reason.FORWARD_BOUND, Reason.DROP_TTL})
    assert wanted(Filter(reasons=one, drops_only=True)) == {Reason.DROP_TTL}


def test_names() -> None:
    assert parse_reason("drop_ttl") is Reason.DROP_TTL
    assert reason_name(Reason.DROP_TTL) == "drop_ttl"
    assert reason_name(127) == "reason_127"
    assert parse_ufrag("aZ09+/") == "aZ09+/"
    for text in ("", "a:b", "a b", "ä", "a\n", "x" * 33):
        with pytest.raises(ValueError, match="ufrag"):
            parse_ufrag(text)


def record(size: int) -> bytes:
    return pcapng.packet(pcapng.Record(0, 1, bytes(size), size, pcapng.INBOUND, 1, "why"))


def test_blocks_say_their_length_twice() -> None:
    for block in (
        pcapng.section("x"),
        pcapng.interface("eth0:in", "before", 64),
        *(record(size) for size in range(5)),
        pcapng.statistics(0, 1, 2),
    ):
        assert len(block) % 4 == 0
        assert block[4:8] == block[-4:] == struct.pack("=I", len(block))


def test_a_file_ends_with_a_whole_block_at_its_limit(tmp_path: Path) -> None:
    block = record(100)
    file = tmp_path / "limited"
    fd = os.open(file, os.O_WRONLY | os.O_CREAT)
    writer = pcapng.Writer(fd, limit=3 * len(block) + 1)
    assert writer.write([block, block])
    assert not writer.write([block, block])
    os.close(fd)
    assert file.read_bytes() == 3 * block
    assert writer.size == 3 * len(block)


@pytest.mark.parametrize(
    ("argv", "status", "says"),
    [
        (("--client", "198.51.100"), 2, "ADDR:PORT"),
        (("--client", "198.51.100.7:0"), 2, "port"),
        (("--client", "2001:db8::1:70000:x"), 2, "ADDR:PORT"),
        (("--client", "[2001:db8::1"), 2, "ADDR:PORT"),
        (("--vip", "203.0.113.1"), 2, "no port"),
        (("--ufrag", "not:a:ufrag"), 2, "not a ufrag"),
        (("--ufrag", "x" * 33), 2, "not a ufrag"),
        (("--ufrag", ""), 2, "not a ufrag"),
        (("--reason", "drop_everything"), 2, "no reason"),
        (("--sample", "0"), 2, "--sample"),
        (("--count", "-1"), 2, "--count"),
        (("--seconds", "0"), 2, "--seconds"),
        (("--pin-path", "/sys/fs/bpf/nobody"), 3, "no maps are pinned"),
    ],
)
def test_malformed_filters(argv: tuple[str, ...], status: int, says: str) -> None:
    for command in (["trace"], ["capture", "never-made.pcapng"]):
        said = CliRunner().invoke(cli, [*command, *argv])
        assert (said.exit_code, said.stdout) == (status, "")
        assert says in said.stderr
    assert not Path("never-made.pcapng").exists()
