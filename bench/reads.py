# SPDX-License-Identifier: Apache-2.0
"""`earshot` over full maps, as somebody starts it: how long each read takes, and with how much memory."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.lab.services import BIN
from tests.lab.topology import Site

READS = (
    "flow list",
    "flow list -o json",
    "session list",
    "session list -o json",
    "stats -o json",
    "top -n 1 --interval 0.2 -o json",
    "map dump flows_v2",
    "map dump flows_v2 -o json",
    "map dump sessions_v1 -o json",
)
# Looks more or less: what one of a `top` that goes on takes.
_LOOKS = 11
_LOOKING = f"top -n {_LOOKS} --interval 0.2 -o json"
# In a process of its own: the kernel counts the memory of whoever starts a command as the command's.
_TIME = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
status = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
took, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({
    "seconds": round(took, 2),
    "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
    "peak_mib": round(used.ru_maxrss / 1024),
}))
sys.exit(status)
"""

Figures = dict[str, float]


def measure(site: Site) -> dict[str, Figures]:
    """By command: seconds from start to end, CPU time, and its most memory, mapped maps included."""
    measured = {read: _timed(site, read) for read in READS}
    once, often = measured["top -n 1 --interval 0.2 -o json"], _timed(site, _LOOKING)
    each = (often["cpu_seconds"] - once["cpu_seconds"]) / (_LOOKS - 1)
    return {**measured, "each further look of top": {"cpu_seconds": round(each, 3)}}


def _timed(site: Site, read: str) -> Figures:
    command = [str(BIN / "earshot"), *read.split(), f"--pin-path={site.lab.pins}"]
    done = subprocess.run(
        site.relay.command(sys.executable, "-c", _TIME, *command), stdout=subprocess.PIPE, check=False
    )
    if done.returncode:
        raise RuntimeError(f"earshot {read} ended with status {done.returncode}")
    figures: Figures = json.loads(done.stdout)
    return figures
