# SPDX-License-Identifier: Apache-2.0
"""Runs programs on a stream of packets: driver.bpf.c in front of what is measured."""

from __future__ import annotations

import os
import struct
import time
from ipaddress import ip_address
from pathlib import Path

from bench import tables
from bench.tables import PLANS, Shape
from control import libbpf
from tests.bpf.packets import Datagram

BUILD = Path(__file__).resolve().parent.parent / "build"
RTP = bytes.fromhex("806f0001000003c0deadbeef") + bytes(148)  # 160 bytes: 20 ms of Opus


class Driver:
    """Packets of one kind, for flows of one shape.

    Args:
        up: the share of packets that go to the VIP, in 1/256; the others go to relay ports.
        strange: from clients that have no flow.
        in_turn: each client once, in order, instead of any at random.
        payload: its bytes 12 to 20 are overwritten.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        up: int = 256,
        strange: bool = False,
        in_turn: bool = False,
        payload: bytes = RTP,
    ) -> None:
        plan = PLANS[shape.family]
        client = plan.client + (1 << 24) * strange
        words = [address.packed.ljust(16, b"\0") for address in (client, plan.relay, plan.backend, plan.vip)]
        settings = struct.pack(
            "=7I16s16s16s16s",
            *(shape.family == 6, up, in_turn, shape.relays, shape.span, shape.port_bits, tables.BACKENDS),
            *words,
        )
        settings += struct.pack("!HH", tables.VIP_PORT, tables.BACKEND_PORT)
        settings += struct.pack("=HH", tables.PORT_MIN, tables.CLIENT_PORTS)
        with libbpf.BpfObject(BUILD / "driver.bpf.o") as program:
            program.set_rodata(settings)
            program.load()
            self._program = os.dup(program.program_fd("drive"))
            self._under_test = os.dup(program.map_fd("under_test"))
        # Its addresses and ports are written anew for each run; the state in it begins at 0.
        first = Datagram(ip_address(plan.client), plan.vip, 1, 1, payload[:12] + bytes(8) + payload[20:])
        self._packet = first.frame()

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
