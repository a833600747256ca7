# SPDX-License-Identifier: Apache-2.0
"""What labs leave on the machine, by prefix, and how it is removed.

A lab owns what carries its prefix, `es-PID-N`: the namespaces `es-PID-N-HOST`,
the folder `/run/earshot-lab/es-PID-N` (sockets, logs) and the folder
`/sys/fs/bpf/es-PID-N` (pins). So whoever knows a prefix can remove all of it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import time
from pathlib import Path

from tests.lab.host import NETNS, LabError, run

RUN = Path("/run/earshot-lab")
BPFFS = Path("/sys/fs/bpf")
KEPT = "kept"  # a file in a lab's folder: it is meant to outlive its process
PREFIX = re.compile(r"es-(\d+)-\d+")
END_TIMEOUT = 5.0


def labs() -> list[str]:
    """Prefixes of all labs of which anything is there."""
    names = {
        found.group()
        for folder in (NETNS, RUN, BPFFS)
        if folder.is_dir()
        for entry in folder.iterdir()
        if (found := PREFIX.match(entry.name))
    }
    return sorted(names)


def kept_labs() -> list[str]:
    """Prefixes of the labs that were left running on purpose."""
    return [prefix for prefix in labs() if (RUN / prefix / KEPT).exists()]


def sweep() -> list[str]:
    """Removes the labs whose process is dead, kept ones excepted; returns their prefixes."""
    kept = kept_labs()
    dead = [prefix for prefix in labs() if prefix not in kept and not _alive(prefix)]
    for prefix in dead:
        remove(prefix)
    return dead


def remove(prefix: str) -> None:
    """Ends what runs in a lab's hosts, and removes its namespaces, pins and files.

    Raises `LabError` if a process outlives SIGKILL.
    """
    names = [path.name for path in NETNS.glob(f"{prefix}-*")]
    deadline = time.monotonic() + END_TIMEOUT
    while pids := [int(pid) for name in names for pid in run(["ip", "netns", "pids", name]).split()]:
        if time.monotonic() > deadline:
            raise LabError(f"{prefix}: processes {pids} do not end")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    for name in names:
        run(["ip", "netns", "delete", name])
    for folder in (BPFFS / prefix, RUN / prefix):
        if folder.exists():
            shutil.rmtree(folder)


def _alive(prefix: str) -> bool:
    found = PREFIX.match(prefix)
    return found is not None and Path("/proc", found.group(1)).exists()
