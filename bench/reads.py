# SPDX-License-Identifier: Apache-2.0
"""`earshot` over full maps, as somebody starts it: how long each read takes."""

from __future__ import annotations

import os
import subprocess
import time
from typing import Any

from tests.lab.services import BIN
from tests.lab.topology import Site

READS = (
    "flow list",
    "flow list -o json",
    "session list",
    "session list -o json",
    "top -n 1 --interval 0.2 -o json",
    "stats -o json",
    "vip list -o json",
    "flow list --client 11.0.0.1 -o json",
    "map dump flows_v2",
    "map dump flows_v2 -o json",
    "map dump sessions_v1 -o json",
)


def measure(site: Site) -> dict[str, dict[str, float]]:
    """By command: seconds from start to end, and CPU time of it."""
    return {read: _timed(site, read) for read in READS}


def _timed(site: Site, read: str) -> dict[str, Any]:
    start = time.perf_counter()
    process = subprocess.Popen(
        site.relay.command(str(BIN / "earshot"), *read.split(), f"--pin-path={site.lab.pins}"),
        stdout=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    took = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"earshot {read} ended with status {process.returncode}")
    return {
        "seconds": round(took, 2),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
    }
