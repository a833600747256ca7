# SPDX-License-Identifier: Apache-2.0
"""Where load comes from and where it ends: generator.bpf.c and sink.bpf.c on hosts' links."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping, Sequence

import numpy as np

from bench.driver import BUILD
from bench.path.plan import Way
from control import libbpf
from control.libbpf import Array
from control.maps import MappedArray, PerCpuArray
from tests.bpf.packets import Datagram
from tests.lab.host import Host

HEAD_BYTES = 88
RTP_HEAD = bytes.fromhex("806f000100000000")  # and the flow's number, and a stamp of eight bytes
RTP_BYTES = 20
ETHERNET, UDP = 14, 8
IP = {4: 20, 6: 40}
SAMPLES_MAX = 65536
NO_PROBES, ALL_PROBES = 0xFFFF_FFFF, 0
_LO = 1

_CONTROL = np.dtype(
    [
        ("random", "=u8"),
        *((name, "=u4") for name in ("first_flow", "flows", "turn", "in_turn", "probe_mask", "pad")),
    ]
)
_COUNTS = np.dtype([("right", "=u8"), ("wrong", "=u8")])
_SAMPLE = np.dtype([("nanoseconds", "=u8")])
_PORT = np.dtype([("port", "=u8")])

Macs = tuple[bytes, bytes]  # destination, source


class Packets:
    """One direction's packets, of any flow: generator.bpf.c, loaded.

    size: bytes of the IP packet (what stands between UDP and RTP included).
    flows: how many there are.
    ports: destination ports by flow, where the way has no form for them.
    """

    def __init__(self, way: Way, macs: Macs, size: int, flows: int, ports: Sequence[int] = ()) -> None:
        self.frame, self._flows = template(way, macs, size), flows
        family = way.sent[0].address.version
        with libbpf.BpfObject(BUILD / "generator.bpf.o") as program:
            program.set_max_entries("ports", max(1, len(ports)))
            program.set_rodata(
                self.frame[:HEAD_BYTES]
                + b"".join(end.pack() for end in way.sent)
                + struct.pack("=III", family == 6, len(way.sent_tag), bool(ports))
                + struct.pack("=II4x", *_sums(self.frame, family))
            )
            program.load()
            if ports:
                listed = MappedArray(program.map_fd("ports"), _PORT)
                listed.array["port"] = ports
                listed.close()
            self.generate, self.drive = (os.dup(program.program_fd(name)) for name in ("generate", "drive"))
            self.out, self.under_test, self._control = (
                os.dup(program.map_fd(name)) for name in ("out", "under_test", "control")
            )
        self.set()

    def close(self) -> None:
        for fd in (self.generate, self.drive, self.out, self.under_test, self._control):
            os.close(fd)

    def set(
        self,
        *,
        in_turn: bool = False,
        probe_mask: int = NO_PROBES,
        shares: Mapping[int, range] | None = None,
    ) -> None:
        """What each CPU sends from now on.

        Args:
            in_turn: each flow once, in order.
            probe_mask: one frame of so many is a probe.
            shares: the flows that a CPU sends, where it is not all.
        """
        state = np.zeros(libbpf.possible_cpus(), _CONTROL)
        state["random"] = 1 + np.arange(len(state))
        state["in_turn"], state["probe_mask"], state["flows"] = in_turn, probe_mask, self._flows
        for cpu, flows in (shares or {}).items():
            state["first_flow"][cpu], state["flows"][cpu] = flows.start, len(flows)
        libbpf.update(self._control, bytes(4), state.tobytes())


class Source(Packets):
    """Packets that are sent out by a host's link."""

    def __init__(
        self,
        host: Host,
        interface: str,
        way: Way,
        macs: Macs,
        size: int,
        flows: int,
        ports: Sequence[int] = (),
    ) -> None:
        super().__init__(way, macs, size, flows, ports)
        with host.inside():
            libbpf.update(self.out, bytes(4), struct.pack("=I", socket.if_nametoindex(interface)))
            # Attached somewhere, or each helping would begin with a rebuild of the kernel's XDP dispatcher.
            self._link = libbpf.create_xdp_link(self.generate, _LO, libbpf.XDP_FLAGS_SKB_MODE)

    def close(self) -> None:
        os.close(self._link)
        super().close()

    def send(self, frames: int) -> None:
        """By the CPU that this runs on."""
        libbpf.run_live_frames(self.generate, self.frame, frames)


class Sink:
    """The end of one direction, at a host's link.

    echo: probes go back.
    pass_on: what was right goes on to the host, where a test may look at it.
    """

    def __init__(
        self,
        host: Host,
        interface: str,
        way: Way,
        flows: int,
        *,
        echo: bool = False,
        pass_on: bool = False,
    ) -> None:
        with libbpf.BpfObject(BUILD / "sink.bpf.o") as program, host.inside():
            program.set_rodata(
                b"".join(end.pack() for end in way.due)
                + struct.pack("=II", way.sent[0].address.version == 6, flows)
                + struct.pack("=IIII", way.due_tag_bytes, way.any_port, echo, pass_on)
            )
            program.load()
            ifindex = socket.if_nametoindex(interface)
            self._link = libbpf.create_xdp_link(
                program.program_fd("sink"), ifindex, libbpf.XDP_FLAGS_DRV_MODE
            )
            self._counts = PerCpuArray(os.dup(program.map_fd("counts")), _COUNTS)
            self._samples = MappedArray(program.map_fd("round_trips"), _SAMPLE)

    def close(self) -> None:
        os.close(self._link)
        os.close(self._counts.fd)
        self._samples.close()

    def counts(self) -> tuple[int, int]:
        """Packets that came as they should have, and others, since it was attached."""
        total = self._counts.read()
        return int(total["right"][0]), int(total["wrong"][0])

    def take_round_trips(self) -> Array:
        """Nanoseconds of each probe that came back since the last call, SAMPLES_MAX at most."""
        words = self._samples.array["nanoseconds"]
        taken = words[1 : 1 + min(int(words[0]), SAMPLES_MAX)].copy()
        words[0] = 0
        return taken


def template(way: Way, macs: Macs, size: int) -> bytes:
    """A frame of flow 0, no probe."""
    (src, sport), (dst, dport) = (end.of(0) for end in way.sent)
    rtp = size - IP[src.version] - UDP - len(way.sent_tag)
    payload = way.sent_tag + RTP_HEAD + bytes(rtp - len(RTP_HEAD))
    return Datagram(src, dst, sport, dport, payload, dmac=macs[0], smac=macs[1]).frame()


def rtp_bytes(family: int, size: int, tag_bytes: int = 0) -> int:
    """Of an IP packet of that size, how many are RTP's."""
    return size - IP[family] - UDP - tag_bytes


def _sums(frame: bytes, family: int) -> tuple[int, int]:
    """Sums of 16-bit words, as they stand in memory, of all that is the same in every frame.

    Of the IPv4 header without its addresses; and for UDP's checksum without last words of addresses,
    ports, and the words of RTP that differ (the first, the flow, the stamp).
    """
    header = IP[family]
    ip, udp = bytearray(frame[ETHERNET : ETHERNET + header]), bytearray(frame[ETHERNET + header :])
    length = udp[4:6]
    payload = bytes(udp[UDP:])
    at = payload.index(RTP_HEAD)
    varying = bytearray(payload)
    varying[at : at + 4] = bytes(4)
    pseudo = length + b"\0\x11"
    if family == 6:
        pseudo += ip[8:20] + ip[24:36]
    ip[10:20] = bytes(10)
    return _sum(bytes(ip[:20])), _sum(bytes(pseudo + length + varying))


def _sum(raw: bytes) -> int:
    words = np.frombuffer(raw + bytes(len(raw) % 2), "=u2")
    total = int(words.sum(dtype=np.uint64))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total
