# SPDX-License-Identifier: Apache-2.0
"""Floods made in the kernel: a million frames a second and more from one core, by live-frame test runs."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import numpy as np

from control import libbpf
from control.maps import ArrayMap
from tests.lab.host import Host

OBJECT = Path(__file__).parents[2] / "build" / "flood.bpf.o"
FRAME = 256  # bytes of every frame
HEADERS = 14 + 20 + 8
PAYLOAD = FRAME - HEADERS
TICK = 0.001  # seconds between two helpings

TEMPLATE = np.dtype(
    [
        ("frame", f"V{FRAME}"),
        ("ifindex", "=u4"),
        ("source", "=u4"),
        ("source_mask", "=u4"),
        ("random_from", "=u4"),
    ]
)


class Flood:
    """A host's link that can be flooded from. Use `on`."""

    def __init__(self, host: Host, interface: str, program: libbpf.BpfObject) -> None:
        self._host = host
        self._program_fd = program.program_fd("flood")
        self._template = ArrayMap(program.map_fd("template"), TEMPLATE)
        with host.inside():
            self._ifindex = socket.if_nametoindex(interface)

    def send(
        self,
        frames: int,
        rate: int,
        payload: bytes,
        *,
        macs: tuple[bytes, bytes],
        destination: tuple[str, int],
        sources: IPv4Network,
        random_from: int | None = None,
    ) -> float:
        """Sends so many frames at so many a second; returns how many a second it came to.

        Args:
            payload: of UDP; filled up to the frame with zeros that the UDP length leaves out.
            macs: destination and source.
            sources: source addresses are taken from it at random, ports too.
            random_from: the byte of the payload from which on it is random.
        """
        template = np.zeros(1, TEMPLATE)
        template["frame"] = np.void(_frame(payload, macs, destination).ljust(FRAME, b"\0"))
        template["ifindex"] = self._ifindex
        template["source"] = int(sources.network_address)
        template["source_mask"] = int(sources.hostmask)
        template["random_from"] = FRAME if random_from is None else HEADERS + random_from
        self._template.put(0, template)

        started = time.monotonic()
        sent = 0
        with self._host.inside():
            while sent < frames:
                due = min(frames, int((time.monotonic() - started) * rate) + 1)
                if due > sent:
                    libbpf.run_live_frames(self._program_fd, bytes(FRAME), due - sent)
                    sent = due
                time.sleep(TICK)
        return frames / (time.monotonic() - started)


@contextlib.contextmanager
def on(host: Host, interface: str) -> Iterator[Flood]:
    """Makes a host's link ready to be flooded from."""
    with libbpf.BpfObject(OBJECT) as program, host.inside():
        program.load()
        # Attached somewhere, or each helping would begin with a rebuild of the kernel's XDP dispatcher.
        link = libbpf.create_xdp_link(program.program_fd("flood"), 1, libbpf.XDP_FLAGS_SKB_MODE)
        try:
            yield Flood(host, interface, program)
        finally:
            os.close(link)


def _frame(payload: bytes, macs: tuple[bytes, bytes], destination: tuple[str, int]) -> bytes:
    address, port = destination
    udp = struct.pack("!HHHH", 0, port, 8 + len(payload), 0)
    ends = bytes(4) + IPv4Address(address).packed
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 28 + len(payload), 0, 0x4000, 64, 17, 0) + ends
    total = sum(struct.unpack("!10H", ip))
    total = (total & 0xFFFF) + (total >> 16)
    ip = ip[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + ip[12:]
    return macs[0] + macs[1] + b"\x08\x00" + ip + udp + payload
