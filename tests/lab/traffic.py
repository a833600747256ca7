# SPDX-License-Identifier: Apache-2.0
"""Continuous traffic of hundreds of calls, both ways, counted packet by packet (traffic.bpf.c).

The packets are made and counted in the kernel: 200 calls of 50 packets a second each way cost a
few per cent of a core. A phase of traffic ends with what of it has not arrived:

    with traffic.flowing() as phase:
        ...                         # what a call has to survive
    assert phase.is_whole(), phase
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import numpy as np

from control import libbpf
from control.addresses import to_bytes
from control.maps import HashMap, MappedArray
from tests.lab.host import Host

OBJECT = Path(__file__).parents[2] / "build" / "traffic.bpf.o"
FRAME = 216  # bytes of every frame
BATCH = 64  # a quarter of what waits in a veth's ring at most
RATE = 50.0  # packets a second of a voice call, each way
MARK = 0x80EA7281
UP, DOWN = 0, 1
WAYS = ("up", "down")
SETTLE_SECONDS = 0.1
SETTLE_TIMEOUT = 5.0

STREAM = np.dtype(
    [
        ("frame", f"V{FRAME}"),
        ("source", "V16"),
        ("destination", "V16"),
        ("source_port", ">u2"),
        ("destination_port", ">u2"),
        ("ifindex", "=u4"),
        ("sent", "=u4"),
        ("newest", "=u4"),
        ("received", "=u4"),
        ("repeated", "=u4"),
        ("wrong", "=u4"),
        ("reserved", "=u4"),
        ("arrived_at", "=u8"),
        ("silence", "=u8"),
    ]
)
TURNS = np.dtype([("first", "=u4"), ("streams", "=u4"), ("next", "=u4"), ("reserved", "=u4")])

Address = tuple[str, int]


@dataclass(frozen=True)
class Leg:
    """One direction of a call: as it is sent, and as it has to arrive."""

    sent: tuple[Address, Address]  # from, to
    arrives: tuple[Address, Address]


@dataclass(frozen=True)
class Arm:
    """Where one side's packets leave, and who takes them there."""

    host: Host
    interface: str
    gateway_mac: str


@dataclass
class Phase:
    """What became of the packets of a while; filled in when the block is over."""

    sent: list[int] = field(default_factory=list)  # by way
    received: list[int] = field(default_factory=list)
    lost: dict[tuple[int, str], int] = field(default_factory=dict)  # by call and way, where any was
    strange: int = 0  # came twice, or late, or not as they ought to
    silence: float = 0.0  # the longest between two packets of a stream that arrived, in seconds

    def is_whole(self, *ways: int) -> bool:
        """Whether there was traffic these ways (by default both), and all of it arrived as it ought to."""
        talked = [way for way in (UP, DOWN) if self.sent[way]]
        return talked == list(ways or (UP, DOWN)) and self.sent == self.received and not self.strange

    def __str__(self) -> str:
        ways = ", ".join(
            f"{way}: {received:,} of {sent:,}"
            for way, sent, received in zip(WAYS, self.sent, self.received, strict=True)
        )
        return f"{ways}; {sum(self.lost.values()):,} lost, longest silence {self.silence * 1e3:.0f} ms"


class Traffic:
    """What both ends of many calls send and hear. Use `between`."""

    def __init__(self, program: libbpf.BpfObject, arms: tuple[Arm, Arm], rate: float) -> None:
        self._arms = arms
        self._rate = rate
        self._programs = [program.program_fd(f"talk_{way}") for way in WAYS]
        self._listener = program.program_fd("listen")
        self._macs = HashMap(program.map_fd("macs"), "=u4", "=u8")
        self._mapped = MappedArray(program.map_fd("streams"), STREAM)
        self._mapped_turns = MappedArray(program.map_fd("turns"), TURNS)
        self._streams = self._mapped.array
        self._turns = self._mapped_turns.array
        self._calls = 0

    def close(self) -> None:
        del self._streams, self._turns
        self._mapped.close()
        self._mapped_turns.close()

    def connect(self, legs: Sequence[tuple[Leg, Leg]]) -> None:
        """The calls, each with its ways up and down. They are numbered from 0 on."""
        self._calls = len(legs)
        for way, arm in enumerate(self._arms):
            first = way * self._calls
            mac = link_mac(arm.host, arm.interface)
            ifindex = link_index(arm.host, arm.interface)
            self._turns[way] = (first, self._calls, 0, 0)
            for number, leg in enumerate((pair[way] for pair in legs), first):
                record = np.zeros(1, STREAM)
                record["frame"] = np.void(_frame(leg.sent, arm.gateway_mac, mac, number))
                (source, source_port), (destination, destination_port) = leg.arrives
                record["source"] = np.void(to_bytes(ip_address(source)))
                record["destination"] = np.void(to_bytes(ip_address(destination)))
                record["source_port"], record["destination_port"] = source_port, destination_port
                record["ifindex"] = ifindex
                self._streams[number] = record[0]

    def hang_up(self, call: int) -> None:
        """Both ends of a call fall silent."""
        for way in (UP, DOWN):
            self._streams["ifindex"][way * self._calls + call] = 0

    @contextlib.contextmanager
    def listening(self, host: Host, interface: str) -> Iterator[None]:
        """Counts what arrives by a link, in place of whatever program is there."""
        host.ip(f"link set dev {interface} xdpdrv off")
        self.expect_mac(host, interface)
        with host.inside():
            index = socket.if_nametoindex(interface)
            link = libbpf.create_xdp_link(self._listener, index, libbpf.XDP_FLAGS_DRV_MODE)
        try:
            yield
        finally:
            os.close(link)

    def expect_mac(self, host: Host, interface: str) -> None:
        """From now on what arrives there has to be for the link's present MAC address."""
        mac = int.from_bytes(_mac(link_mac(host, interface)), "little")
        self._macs.put(np.uint32(link_index(host, interface)).tobytes(), np.uint64(mac).tobytes())

    @contextlib.contextmanager
    def flowing(self, *ways: int) -> Iterator[Phase]:
        """Traffic while the block runs, both ways unless some are named."""
        before = self._streams.copy()
        self._streams["silence"] = 0
        self._streams["arrived_at"] = 0
        phase = Phase()
        ending, failures = threading.Event(), list[BaseException]()

        def talk() -> None:
            try:
                self._talk(ways or (UP, DOWN), ending)
            except BaseException as error:  # noqa: BLE001 - raised again below, where the test sees it
                failures.append(error)

        talking = threading.Thread(target=talk, name="traffic")
        talking.start()
        try:
            yield phase
        finally:
            ending.set()
            talking.join()
        for failure in failures:
            raise failure
        self._settle()
        self._fill(phase, before)

    def arrived(self, way: int) -> int:
        """Packets that have arrived so far, of all calls."""
        part = self._streams["received"][way * self._calls : (way + 1) * self._calls]
        return int(part.astype(np.uint64).sum())

    def received(self, call: int) -> tuple[int, int]:
        """Packets of one call that have arrived so far, up and down."""
        received = self._streams["received"]
        return int(received[call]), int(received[self._calls + call])

    def wait_for_rounds(self, rounds: int, timeout: float = 20.0) -> None:
        """Returns when each call has sent so many packets more."""
        goal = int(self._streams["sent"][: 2 * self._calls].max()) + rounds
        deadline = time.monotonic() + timeout
        while int(self._streams["sent"][: 2 * self._calls].max()) < goal:
            assert time.monotonic() < deadline, "the traffic does not flow"
            time.sleep(0.01)

    def _talk(self, ways: Sequence[int], ending: threading.Event) -> None:
        started = time.monotonic()
        for turn in range(1, 10_000_000):
            for way in ways:
                with self._arms[way].host.inside():
                    libbpf.run_live_frames(self._programs[way], bytes(FRAME), self._calls, batch=BATCH)
            # Late rounds are left out, not caught up with: no bursts.
            due = started + turn / self._rate
            started += max(0.0, time.monotonic() - due)
            if ending.wait(max(0.0, due - time.monotonic())):
                return

    def _settle(self) -> None:
        """Waits until nothing is under way any more."""
        deadline = time.monotonic() + SETTLE_TIMEOUT
        known = -1
        while time.monotonic() < deadline:
            now = sum(int(self._streams[name].sum()) for name in ("received", "repeated", "wrong"))
            if now == known:
                return
            known = now
            time.sleep(SETTLE_SECONDS)

    def _fill(self, phase: Phase, before: Any) -> None:
        after = self._streams.copy()
        moved = {
            name: (after[name] - before[name])[: 2 * self._calls].reshape(2, self._calls).astype(int)
            for name in ("sent", "received", "repeated", "wrong")
        }
        phase.sent = moved["sent"].sum(axis=1).tolist()
        phase.received = moved["received"].sum(axis=1).tolist()
        lost = moved["sent"] - moved["received"]
        for way, call in zip(*np.nonzero(lost), strict=True):
            phase.lost[int(call), WAYS[way]] = int(lost[way, call])
        phase.strange = int(moved["repeated"].sum() + moved["wrong"].sum())
        phase.silence = float(after["silence"].max()) / 1e9


@contextlib.contextmanager
def between(client: Arm, transceiver: Arm, rate: float = RATE) -> Iterator[Traffic]:
    """Traffic between two hosts, each of which has one link towards the relay."""
    with libbpf.BpfObject(OBJECT) as program, contextlib.ExitStack() as stack:
        program.load()
        for way in WAYS:
            # Attached somewhere, or each helping would begin with a rebuild of the kernel's XDP dispatcher.
            arm = (client, transceiver)[WAYS.index(way)]
            with arm.host.inside():
                fd = program.program_fd(f"talk_{way}")
                stack.callback(os.close, libbpf.create_xdp_link(fd, 1, libbpf.XDP_FLAGS_SKB_MODE))
        made = Traffic(program, (client, transceiver), rate)
        stack.callback(made.close)
        for arm in (client, transceiver):
            stack.enter_context(made.listening(arm.host, arm.interface))
        yield made


def link_mac(host: Host, interface: str) -> str:
    return host.run("ip", "-brief", "link", "show", "dev", interface).split()[2]


def link_index(host: Host, interface: str) -> int:
    with host.inside():
        return socket.if_nametoindex(interface)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _sum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _frame(ends: tuple[Address, Address], gateway: str, mac: str, number: int) -> bytes:
    """A stream's packet of sequence 0, with all checksums: they hold for every other one, too."""
    (source, source_port), (destination, destination_port) = ends
    ip6 = ":" in destination
    addresses = ip_address(source).packed + ip_address(destination).packed
    room = FRAME - 14 - (40 if ip6 else 20) - 8
    payload = struct.pack("!I", MARK) + struct.pack("=III", number, 0, 0xFFFFFFFF)
    payload = payload.ljust(room, b"\x5a")
    length = 8 + room
    head = struct.pack("!HHH", source_port, destination_port, length)
    pseudo = addresses + struct.pack("!HH", 17, length)
    checksum = ~_sum(pseudo + head + payload) & 0xFFFF or 0xFFFF
    udp = head + struct.pack("!H", checksum) + payload
    if ip6:
        ip = struct.pack("!IHBB", 6 << 28, length, 17, 64) + addresses
    else:
        ip = struct.pack("!BBHHHBBH", 0x45, 0xB8, 20 + length, 0, 0x4000, 64, 17, 0) + addresses
        ip = ip[:10] + struct.pack("!H", ~_sum(ip) & 0xFFFF) + ip[12:]
    return _mac(gateway) + _mac(mac) + (b"\x86\xdd" if ip6 else b"\x08\x00") + ip + udp
