# SPDX-License-Identifier: Apache-2.0
"""RTP of many calls as the kernels of both ends saw it: what was lost each way, and the widest gaps.

Both ends' links are captured, so that neither a client nor a transceiver has to take times, and all clients
are measured alike. Packets are encrypted, but not their headers (RFC 3711): a stream is known by its SSRC.
"""

from __future__ import annotations

import itertools
import re
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from tests.lab.calls import wait_for
from tests.lab.host import Host
from tests.lab.netns import Lab
from tests.lab.topology import VIP_PORT

TAIL = 0.5  # seconds; what is sent in the last of a capture may be on its way
SETTLE = 0.3  # for what is in the kernel's buffer yet
TIMEOUT = 30.0
SNAP = 80  # bytes: Ethernet, IPv6, UDP, and the fixed part of RTP's header
BUFFER = 32  # MiB
_MAGIC, _FILE_HEADER = b"\xd4\xc3\xb2\xa1", 24  # little-endian, as the machines that this runs on
_RECORD = struct.Struct("<IIII")
_RTP = struct.Struct("!BBHII")
_PORTS = struct.Struct("!HH")
_IPV4, _IPV6 = b"\x08\x00", b"\x86\xdd"
_UDP_AT = {_IPV4: 34, _IPV6: 54}  # by EtherType; IP without options
_DROPPED = re.compile(r"received/dropped on interface .*: \d+/(\d+) ")

Client = tuple[str, int]  # address and port


@dataclass
class Stream:
    """One SSRC at one place: from where to where, and when each packet passed, in seconds of the epoch."""

    source: Client
    destination: Client
    at: dict[int, float] = field(default_factory=dict)  # by sequence number
    again: int = 0  # packets that had been there before


@dataclass(frozen=True)
class Way:
    """One direction of a call.

    Attributes:
        sent, lost: packets.
        repeated: those that arrived more than once.
        gap: the longest time without a packet where they arrive, in seconds.
        pause: the same where they are sent.
        slowest: the longest that a packet took from there to here.
    """

    sent: int
    lost: int
    repeated: int
    gap: float
    pause: float
    slowest: float


@dataclass(frozen=True)
class Heard:
    """A call: what its transceiver heard of its client (`up`), and the other way."""

    up: Way
    down: Way


@dataclass
class Hearing:
    """What a capture has of all calls, by their clients; filled in when it is over."""

    calls: dict[Client, Heard] = field(default_factory=dict)


@contextmanager
def hearing(lab: Lab, client: tuple[Host, str], transceiver: tuple[Host, str]) -> Iterator[Hearing]:
    """Captures at both ends' links, which are named, for as long as the block runs."""
    made = Hearing()
    files = [lab.dir / f"{host.name}.pcap" for host, _ in (client, transceiver)]
    with ExitStack() as stack:
        for (host, interface), path in zip((client, transceiver), files, strict=True):
            stack.enter_context(_captured(lab, host, interface, path))
        began = time.time()
        yield made
        ended = time.time()
    outside, inside = (_streams(path) for path in files)
    made.calls = _calls(outside, inside, began, ended)
    for path in files:
        path.unlink()


@contextmanager
def _captured(lab: Lab, host: Host, interface: str, path: Path) -> Iterator[None]:
    log = f"dumpcap-{host.name}"
    begun = lab.log(log).read_text().count("File: ") if lab.log(log).exists() else 0
    flags = ("-q", "-P", "-i", interface, "-s", str(SNAP), "-B", str(BUFFER), "-f", "udp", "-w", str(path))
    process = lab.popen(host, "dumpcap", *flags, log=log)
    wait_for(lambda: _begun(lab, log, process) > begun, "dumpcap captures", TIMEOUT)
    try:
        yield
        time.sleep(SETTLE)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(TIMEOUT)
    said = lab.log(log).read_text()
    dropped = _DROPPED.findall(said)
    assert dropped
    assert dropped[-1] == "0", said  # what the capture has missed would count as lost


def _begun(lab: Lab, log: str, process: subprocess.Popen[bytes]) -> int:
    said = lab.log(log).read_text()
    assert process.poll() is None, said
    return said.count("File: ")


def _streams(path: Path) -> dict[int, Stream]:
    """RTP of a capture, by SSRC."""
    data = path.read_bytes()
    assert data[:4] == _MAGIC, "not a pcap file of microseconds"
    streams: dict[int, Stream] = {}
    at = _FILE_HEADER
    while at + _RECORD.size <= len(data):
        seconds, micros, length, _ = _RECORD.unpack_from(data, at)
        frame = data[at + _RECORD.size : at + _RECORD.size + length]
        at += _RECORD.size + length
        udp = _UDP_AT.get(frame[12:14])
        if udp is None or len(frame) < udp + 8 + _RTP.size:
            continue
        first, kind, number, _, ssrc = _RTP.unpack_from(frame, udp + 8)
        if first >> 6 != 2 or 192 <= kind < 224:  # RFC 7983, RFC 5761: not RTP
            continue
        stream = streams.get(ssrc)
        if stream is None:
            stream = streams[ssrc] = Stream(*_ends(frame, udp))
        if number in stream.at:
            stream.again += 1
        else:
            stream.at[number] = seconds + micros / 1e6
    return streams


def _ends(frame: bytes, udp: int) -> tuple[Client, Client]:
    size = 4 if udp == _UDP_AT[_IPV4] else 16
    source, destination = _PORTS.unpack_from(frame, udp)
    addresses = frame[udp - 2 * size : udp]
    return (str(ip_address(addresses[:size])), source), (str(ip_address(addresses[size:])), destination)


def _calls(
    outside: dict[int, Stream], inside: dict[int, Stream], began: float, ended: float
) -> dict[Client, Heard]:
    """Those that were heard at both ends, both ways."""
    ups, downs = dict[Client, Way](), dict[Client, Way]()
    for ssrc in outside.keys() & inside.keys():
        here, there = outside[ssrc], inside[ssrc]
        if here.destination[1] == VIP_PORT:
            ups[here.source] = _way(here, there, began, ended)
        else:
            downs[here.destination] = _way(there, here, began, ended)
    return {client: Heard(ups[client], downs[client]) for client in ups.keys() & downs.keys()}


def _way(sent: Stream, came: Stream, began: float, ended: float) -> Way:
    due = {number for number, at in sent.at.items() if began <= at < ended - TAIL}
    return Way(
        sent=len(due),
        lost=len(due - came.at.keys()),
        repeated=came.again,
        gap=_widest(came, began, ended),
        pause=_widest(sent, began, ended),
        slowest=max((came.at[number] - sent.at[number] for number in due & came.at.keys()), default=0.0),
    )


def _widest(stream: Stream, began: float, ended: float) -> float:
    """The longest time without a packet, from the beginning to the end."""
    times = [began, *sorted(at for at in stream.at.values() if began <= at <= ended), ended]
    return max(after - before for before, after in itertools.pairwise(times))
