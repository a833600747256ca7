# SPDX-License-Identifier: Apache-2.0
"""RTP as a plan of packets, sent at their times; and what tshark says of a capture of them."""

from __future__ import annotations

import random
import re
import signal
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.lab.host import run
from tests.lab.topology import Site

SDP_PORT = 5060
CAPTURE_TIMEOUT = 20.0


class Planned(NamedTuple):
    """A packet, and when it is due, in seconds from the beginning."""

    at: float
    payload: bytes


@dataclass(frozen=True)
class Voice:
    """One SSRC: packets of 20 ms, sent faster than that so that a test need not wait.

    lost, late, double: the packets, counted from 0, that never come, come behind the next two, or come twice.
    jitter: seconds that each is late at most, at random.
    """

    ssrc: int
    clock_rate: int
    payload_type: int
    packets: int
    first: int = 65500  # sequence number: so that it wraps
    spacing: float = 0.01
    lost: tuple[int, ...] = ()
    late: tuple[int, ...] = ()
    double: tuple[int, ...] = ()
    jitter: float = 0.0

    def plan(self, start: float = 0.0) -> list[Planned]:
        chance = random.Random(self.ssrc)
        planned = []
        for number in range(self.packets):
            if number in self.lost:
                continue
            at = start + (number + 2.5 * (number in self.late)) * self.spacing
            units = round(number * self.spacing * self.clock_rate)
            header = struct.pack(
                "!BBHII", 0x80, self.payload_type, (self.first + number) & 0xFFFF, units, self.ssrc
            )
            at += chance.uniform(0, self.jitter)
            planned += [
                Planned(at + 0.002 * copy, header + bytes(60)) for copy in range(1 + (number in self.double))
            ]
        return planned


def send(plan: Sequence[tuple[Planned, Callable[[bytes], object]]]) -> None:
    """Each packet at its time, or as soon after it as there is a CPU."""
    began = time.monotonic()
    for planned, sender in sorted(plan, key=lambda one: one[0].at):
        time.sleep(max(0.0, began + planned.at - time.monotonic()))
        sender(planned.payload)


def announcement(client: str, port: int, codecs: dict[int, str]) -> bytes:
    """SDP in a SIP message, by which tshark learns what the payload types of a port are."""
    kinds = "".join(f"a=rtpmap:{number} {name}\r\n" for number, name in codecs.items())
    sdp = (
        f"v=0\r\no=- 1 1 IN IP4 {client}\r\ns=-\r\nc=IN IP4 {client}\r\nt=0 0\r\n"
        f"m=audio {port} RTP/AVP {' '.join(map(str, codecs))}\r\n{kinds}"
    )
    head = (
        f"INVITE sip:a@{client} SIP/2.0\r\nVia: SIP/2.0/UDP {client}\r\nFrom: <sip:b@{client}>;tag=1\r\n"
        f"To: <sip:a@{client}>\r\nCall-ID: 1\r\nCSeq: 1 INVITE\r\nContent-Type: application/sdp\r\n"
        f"Content-Length: {len(sdp)}\r\n\r\n"
    )
    return (head + sdp).encode()


@contextmanager
def captured(site: Site, path: Path) -> Iterator[None]:
    """All that the client's host sends and hears meanwhile, in a file that is whole at the end."""
    process = site.lab.popen(
        site.client, "dumpcap", "-q", "-P", "-i", site.client_interface, "-w", str(path), log="dumpcap"
    )
    deadline = time.monotonic() + CAPTURE_TIMEOUT
    while f"File: {path}" not in site.lab.log("dumpcap").read_text():
        assert process.poll() is None, site.lab.log("dumpcap").read_text()
        assert time.monotonic() < deadline, "dumpcap did not begin"
        time.sleep(0.05)
    try:
        yield
        time.sleep(0.3)  # for what is in the kernel's buffer yet
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(CAPTURE_TIMEOUT)


@dataclass(frozen=True)
class Told:
    """What tshark tells of a stream. Its `lost` is RFC 3550's: whatever came twice makes up for it."""

    packets: int
    lost: int
    max_delta_ms: float
    max_jitter_ms: float


_ROW = re.compile(
    r"^\s*(?P<start>[\d.]+)\s+(?P<end>[\d.]+)\s+(?P<src>\S+)\s+(?P<sport>\d+)\s+(?P<dst>\S+)\s+(?P<dport>\d+)\s+"
    r"0x(?P<ssrc>[0-9A-Fa-f]+)\s+(?P<payload>.+?)\s+(?P<packets>\d+)\s+(?P<lost>-?\d+)\s+\(\S+%\)\s+(?P<rest>.*)$",
    re.MULTILINE,
)


def told_by_tshark(path: Path) -> dict[tuple[str, int], Told]:
    """Its RTP statistics, by source address and SSRC."""
    said = run(["tshark", "-r", str(path), "-q", "-z", "rtp,streams"], timeout=60)
    found = {}
    for row in _ROW.finditer(said):
        numbers = [float(word) for word in row["rest"].split() if re.fullmatch(r"-?[\d.]+", word)]
        _, _, max_delta, _, _, max_jitter = numbers[:6]
        found[row["src"], int(row["ssrc"], 16)] = Told(
            int(row["packets"]), int(row["lost"]), max_delta, max_jitter
        )
    return found


class Heard(NamedTuple):
    """A packet as tshark has it."""

    source: str
    ssrc: int
    sequence: int
    timestamp: int
    nanoseconds: int


def heard_by_tshark(path: Path) -> list[Heard]:
    """Each RTP packet, in the order of the capture."""
    fields = ("ip.src", "rtp.ssrc", "rtp.seq", "rtp.timestamp", "frame.time_epoch")
    said = run(
        ["tshark", "-r", str(path), "-Y", "rtp.ssrc", "-T", "fields", *(f"-e{name}" for name in fields)],
        timeout=60,
    )
    rows = (line.split("\t") for line in said.splitlines())
    return [
        Heard(source, int(ssrc, 16), int(sequence), int(timestamp), round(float(at) * 1e6) * 1000)
        for source, ssrc, sequence, timestamp, at in rows
    ]
