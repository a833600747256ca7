# SPDX-License-Identifier: Apache-2.0
"""Runs programs on a stream of packets: driver.bpf.c in front of what is measured."""

from __future__ import annotations

import math
import os
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import tables
from bench.tables import LO, PLANS, Shape
from control import libbpf
from tests.bpf.packets import Datagram

BUILD = Path(__file__).resolve().parent.parent / "build"
RTP = bytes.fromhex("806f0001000003c0deadbeef") + bytes(148)  # 160 bytes: 20 ms of Opus
_STATE_BYTES = 8


@dataclass(frozen=True)
class Stream:
    """Packets of one kind.

    up: the share of them that go to the VIP, in 1/256; the others go to relay ports.
    scattered: from clients without a flow, any of 2^24 addresses; else from those of the table.
    strange: from as many clients without a flow as the table has with one.
    in_turn: each client once, in order, instead of any at random.
    noise: the first byte of the payload is drawn at random.
    rounds: RTP without a loss: each flow once a round, in an order far from that of its records.
    """

    payload: bytes = RTP
    up: int = 256
    scattered: bool = False
    strange: bool = False
    in_turn: bool = False
    noise: bool = False
    rounds: bool = False


class Driver:
    """A stream of packets for flows of one shape."""

    def __init__(self, shape: Shape, stream: Stream) -> None:
        plan = PLANS[shape.family]
        first = Datagram(plan.client, plan.vip, 1, 1, stream.payload).frame()
        client = plan.client + (1 << 24) * (stream.strange or stream.scattered)
        self._flows = shape.flows
        self._stride = _stride(shape.flows) if stream.rounds else 0
        words = [address.packed.ljust(16, b"\0") for address in (client, plan.relay, plan.backend, plan.vip)]
        settings = struct.pack(
            "=10I16s16s16s16s",
            *(shape.family == 6, stream.up, stream.in_turn, stream.scattered, stream.noise),
            *(self._stride, len(first)),
            *(shape.relays, shape.span, tables.BACKENDS),
            *words,
        )
        settings += struct.pack("!HH", tables.VIP_PORT, tables.BACKEND_PORT)
        settings += struct.pack("=HH", tables.PORT_MIN, tables.CLIENT_PORTS)
        with libbpf.BpfObject(BUILD / "driver.bpf.o") as program:
            program.set_rodata(settings)
            program.load()
            self._program = os.dup(program.program_fd("drive"))
            self._under_test = os.dup(program.map_fd("under_test"))
        self._frame = first  # addresses and ports are written anew for each packet

    @contextmanager
    def attached_to_lo(self) -> Iterator[None]:
        """Keeps the driver attached, in a host where nothing else uses lo.

        The kernel makes room for a program that is attached nowhere at the start of each test run, and
        takes it away at its end, which takes some 0.4 ms: much, where a run has few packets.
        """
        link = libbpf.create_xdp_link(self._program, LO, libbpf.XDP_FLAGS_SKB_MODE)
        try:
            yield
        finally:
            os.close(link)

    def close(self) -> None:
        os.close(self._program)
        os.close(self._under_test)

    def run(self, program_fd: int, repeat: int, start: int = 0) -> float:
        """Nanoseconds a packet, driver included: this thread's CPU time over all packets.

        start: of a stream that goes through the clients in turn, or in rounds, how many packets came before.
        """
        libbpf.update(self._under_test, bytes(4), struct.pack("=I", program_fd))
        if self._stride:
            start = start // self._flows << 32 | start * self._stride % self._flows
        packet = self._frame + start.to_bytes(_STATE_BYTES, sys.byteorder)
        began = time.thread_time_ns()
        ran = libbpf.run_program(self._program, packet, repeat=repeat)
        elapsed = time.thread_time_ns() - began
        if ran.action == "ABORTED":
            raise RuntimeError("the driver could not run the program")
        return elapsed / repeat


def _stride(flows: int) -> int:
    """A step by which a walk in a circle comes to each flow once, and to no neighbour of the last few."""
    stride = int(flows * 0.618)
    while math.gcd(stride, flows) != 1:
        stride += 1
    return stride
