# SPDX-License-Identifier: Apache-2.0
"""How much memory a process has had in use at most: what somebody else can make it take."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_FORGET_PEAK = "5"  # proc(5), clear_refs


@dataclass
class Growth:
    """Bytes of resident memory."""

    before: int = 0
    most: int = 0

    @property
    def bytes(self) -> int:
        """How many more there were at the peak than before."""
        return self.most - self.before


@contextmanager
def growth(pid: int) -> Iterator[Growth]:
    """What a process took at its peak while the block ran; known when it has ended."""
    Path(f"/proc/{pid}/clear_refs").write_text(_FORGET_PEAK)
    measured = Growth(before=_status(pid, "VmRSS"))
    try:
        yield measured
    finally:
        measured.most = _status(pid, "VmHWM")


def _status(pid: int, name: str) -> int:
    """A size that the kernel tells of a process, in bytes."""
    match = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert match is not None, f"{name} of process {pid}"
    return int(match[1]) << 10
