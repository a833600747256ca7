# SPDX-License-Identifier: Apache-2.0
"""How long the program takes for a packet, where the kernel counts it (sysctl kernel.bpf_stats_enabled)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from control import libbpf


class RunTime(NamedTuple):
    """What the kernel has counted of some programs. It counts for nothing while its statistics are off."""

    nanoseconds: int
    packets: int

    def per_packet(self, before: RunTime) -> float | None:
        """Mean of the packets since; None: none were counted, or another program runs now."""
        packets = self.packets - before.packets
        return (self.nanoseconds - before.nanoseconds) / packets if packets > 0 else None


def read(program_ids: Iterable[int]) -> RunTime | None:
    """Of these programs together. None: who asks may not know (it takes CAP_SYS_ADMIN)."""
    nanoseconds = packets = 0
    for number in sorted(set(program_ids)):
        try:
            fd = libbpf.open_program(number)
        except OSError:
            return None
        try:
            told = libbpf.program_info(fd)
        finally:
            os.close(fd)
        nanoseconds += told.run_ns
        packets += told.runs
    return RunTime(nanoseconds, packets)
