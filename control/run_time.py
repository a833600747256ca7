# SPDX-License-Identifier: Apache-2.0
"""What a packet takes, by the kernel's own clock: sampled, since to be asked costs every packet something.

While run-time statistics are on, the kernel reads its clock before and after each run of any BPF program on
the host: docs/performance.md has what that costs. So they are on for one second of each minute, and only
where `run_time_stats` says so. In that second the counters are read every 50 ms; what packets took in
between, on the average, is one observation.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable

from control import libbpf
from control.config import RUN_TIME_STATS
from control.errors import ConfigError
from control.libbpf import ProgramInfo
from control.logs import event
from control.metrics import catalogue

OFF, SAMPLED = RUN_TIME_STATS
PERIOD_SECONDS = 60.0
WINDOW_SECONDS = 1.0
STEP_SECONDS = 0.05
_SETTING = "run_time_stats"

_log = logging.getLogger(__name__)


def check(mode: str) -> None:
    """Raises ConfigError where the kernel does not let us."""
    if mode == OFF:
        return
    try:
        os.close(libbpf.enable_run_time_statistics())
    except OSError as error:
        raise ConfigError(
            _SETTING,
            f"the kernel refuses ({error.strerror}): it takes CAP_SYS_ADMIN. Leave it off, and set the "
            "sysctl kernel.bpf_stats_enabled to 1 for as long as you want to know",
        ) from error


class Sampler:
    """Takes samples for as long as it is told to.

    Attributes:
        seconds: the histogram of what it found.
    """

    def __init__(self, program: Callable[[], ProgramInfo], mode: str) -> None:
        """`program` tells of the one that is attached now: it may be replaced in the middle of a sample."""
        self.seconds = catalogue.PACKET_SECONDS.observing()
        self._program = program
        self._wanted = asyncio.Event()
        self.set_mode(mode)

    def set_mode(self, mode: str) -> None:
        """On or off from now on."""
        if mode == SAMPLED:
            self._wanted.set()
        else:
            self._wanted.clear()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._wanted.wait()
            try:
                await self._sample()
            except OSError as error:  # what was allowed at first is not any more: the daemon has more to do
                event(_log, logging.WARNING, "run_time_stats_failed", message=error)
            await asyncio.sleep(PERIOD_SECONDS - WINDOW_SECONDS)

    async def _sample(self) -> None:
        statistics = libbpf.enable_run_time_statistics()
        try:
            before = self._program()
            for _ in range(round(WINDOW_SECONDS / STEP_SECONDS)):
                await asyncio.sleep(STEP_SECONDS)
                now = self._program()
                if now.id == before.id and now.runs > before.runs:
                    self.seconds.observe((now.run_ns - before.run_ns) / (now.runs - before.runs) / 1e9)
                before = now
        finally:
            os.close(statistics)
