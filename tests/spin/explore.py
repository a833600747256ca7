# SPDX-License-Identifier: Apache-2.0
"""Runs spin over the model of the flow table; as a program, the long searches, with their figures.

    python -m tests.spin.explore [SETUP ...]    # all worlds, or those whose name begins so

Needs spin, gcc and clang. A search is exhaustive: spin makes a C program of the model, which visits every
state that can be reached, or ends at the first assertion that fails, or where nothing can go on.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.spin.checks import EVERYDAY, LONG, World

MODEL = Path(__file__).parent / "flow_table.pml"
MEGABYTES = 1900
DEPTH = 20_000  # steps; some 500 are reached
TRAIL_LINES = 300
# In a trail: the beginning, what only steers, and the bookkeeping of the proof.
_DULL = re.compile(r"\(:init:|goto|\[(DO|IF|else|break|\(1\))\]|ghost\.h:\d+ \(state \d+\)\s\[(?!assert)")


@dataclass(frozen=True)
class Found:
    """What a search came to."""

    states: int
    seconds: float
    error: str  # what failed; empty if nothing did
    claim: str  # the claim of ghost.h that this breaks; empty if it is something else, such as a deadlock
    trail: str  # the steps that lead there


def explore(world: World, *more: str, long: bool = False) -> Found:
    """Searches a world, with further macros; `long` trades time to begin for speed and memory.

    Raises:
        RuntimeError: spin did not take the model, or the search did not get to its end.
    """
    options = [f"-D{name}" for name in (*world.defines, *more)]
    # Where the program does not run for long, compiling it matters more: clang needs half the time.
    compiler = ["gcc", "-O2", "-DCOLLAPSE"] if long else [os.environ.get("CLANG", "clang-19"), "-O0"]
    compiler += ["-w", "-DSAFETY", "-DNOFAIR", f"-DMEMLIM={MEGABYTES}"]
    with tempfile.TemporaryDirectory() as folder:
        _run(folder, "spin", "-a", *options, str(MODEL))
        _run(folder, *compiler, "-o", "pan", "pan.c")
        output = _run(folder, "./pan", f"-m{DEPTH}", "-w24" if long else "-w20")
        failed = re.search(r"^pan:1: (.*?)(?: \(at depth \d+\))?$", output, re.MULTILINE)
        if not failed and ("errors: 0" not in output or "Search not completed" in output):
            raise RuntimeError(f"{world}: not searched to the end\n{output}")
        error = failed[1] if failed else ""
        trail = _trail(folder, options) if failed else ""
    states = re.search(r"(\S+) states, stored", output)
    seconds = re.search(r"elapsed time (\S+) seconds", output)
    if not states or not seconds:
        raise RuntimeError(f"{world}: no figures\n{output}")
    claim = re.search(r"\|\|\s*([a-z_]+)\)$", error)
    return Found(int(float(states[1])), float(seconds[1]), error, claim[1] if claim else "", trail)


def _run(folder: str, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1200, check=False)
    output = done.stdout + done.stderr
    if command[0] != "./pan" and (done.returncode or re.search(r"^spin:.*[Ee]rror", output, re.MULTILINE)):
        raise RuntimeError(f"{' '.join(command)}\n{output}")
    return output


def _trail(folder: str, options: list[str]) -> str:
    """The way to the error, a step a line: process, place in the model, statement. Then all words."""
    command = ["spin", "-t", "-p", "-k", f"{MODEL.name}.trail", *options, str(MODEL)]
    output = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    ).stdout
    steps = [line for line in output.splitlines() if not _DULL.search(line)]
    return "\n".join(steps[-TRAIL_LINES:]).replace(f"{MODEL.parent}/", "")


def main() -> int:
    wanted = tuple(sys.argv[1:])
    failed = False
    for world in [*EVERYDAY, *LONG]:
        if wanted and not str(world).startswith(wanted):
            continue
        found = explore(world, long=True)
        print(
            f"{world!s:<40} {found.states:>11,} states {found.seconds:>7.1f} s  {found.error or 'holds'}",
            flush=True,
        )
        if found.error:
            print(found.trail)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
