# SPDX-License-Identifier: Apache-2.0
"""Runs programs on a stream of packets: driver.bpf.c in front of what is measured."""

from __future__ import annotations

import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from bench import tables
from bench.tables import PLANS, Shape
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
    """

    payload: bytes = RTP
    up: int = 256
    scattered: bool = False
    strange: bool = False
    in_turn: bool = False
    noise: bool = False


class Driver:
    """A stream of packets for flows of one shape."""

    def __init__(self, shape: Shape, stream: Stream) -> None:
        plan = PLANS[shape.family]
        first = Datagram(plan.client, plan.vip, 1, 1, stream.payload).frame()
        client = plan.client + (1 << 24) * (stream.strange or stream.scattered)
        words = [address.packed.ljust(16, b"\0") for address in (client, plan.relay, plan.backend, plan.vip)]
        settings = struct.pack(
            "=10I16s16s16s16s",
            *(shape.family == 6, stream.up, stream.in_turn, stream.scattered, stream.noise, len(first)),
            *(shape.relays, shape.span, shape.port_bits, tables.BACKENDS),
            *words,
        )
        settings += struct.pack("!HH", tables.VIP_PORT, tables.BACKEND_PORT)
        settings += struct.pack("=HH", tables.PORT_MIN, tables.CLIENT_PORTS)
        with libbpf.BpfObject(BUILD / "driver.bpf.o") as program:
            program.set_rodata(settings)
            program.load()
            self._program = os.dup(program.program_fd("drive"))
            self._under_test = os.dup(program.map_fd("under_test"))
        # Addresses and ports are written anew for each packet; the state begins at 0.
        self._packet = first + bytes(_STATE_BYTES)

    def close(self) -> None:
        os.close(self._program)
        os.close(self._under_test)

    def run(self, program_fd: int, repeat: int) -> float:
        """Nanoseconds a packet, driver included: this thread's CPU time over all packets."""
        libbpf.update(self._under_test, bytes(4), struct.pack("=I", program_fd))
        start = time.thread_time_ns()
        ran = libbpf.run_program(self._program, self._packet, repeat=repeat)
        elapsed = time.thread_time_ns() - start
        if ran.action == "ABORTED":
            raise RuntimeError("the driver could not run the program")
        return elapsed / repeat
