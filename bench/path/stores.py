# SPDX-License-Identifier: Apache-2.0
"""Every store of the loaded program but those to its own stack, by source line: what could be written at all.

As the kernel has it after the verifier's work, so with everything that clang has merged, moved or left out.
Whether a line is on the way of established packets is for a reader to say; written.py sees what changes.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.lab.host import run

_SOURCE = re.compile(r"^; (?P<text>.*) \[file:(?P<file>\S+) line_num:\d+ line_col:\d+\]$")
_STORE = re.compile(r"^\s*\d+: \([0-9a-f]{2}\) (lock |\w+ = atomic\w*\()?\*?\(\(?u\d+ \*\)\(?(?P<base>r\d+) ")


@dataclass(frozen=True)
class Store:
    """instructions: how many of them the line became; atomic ones count alike."""

    file: str
    line: str
    instructions: int


def program_id(program_fd: int) -> str:
    info = Path(f"/proc/self/fdinfo/{program_fd}").read_text()
    return next(line.split()[1] for line in info.splitlines() if line.startswith("prog_id"))


def stores(program_fd: int) -> list[Store]:
    """In the order of files and lines' texts."""
    found: Counter[tuple[str, str]] = Counter()
    at = ("", "")
    for line in run(
        ["bpftool", "prog", "dump", "xlated", "id", program_id(program_fd), "linum"]
    ).splitlines():
        if source := _SOURCE.match(line):
            at = Path(source["file"]).name, source["text"]
        elif (store := _STORE.match(line)) and store["base"] != "r10":
            found[at] += 1
    return [Store(file, text, count) for (file, text), count in sorted(found.items())]
