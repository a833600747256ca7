# SPDX-License-Identifier: Apache-2.0
"""The one clock that decisions are made by: CLOCK_MONOTONIC, as the program in the kernel has it.

Nobody sets it, and it stands still in suspend for both. The time of day is for people: log lines and
certificates. Only a time namespace (time_namespaces(7)) gives a process another one than the kernel's.
"""

from __future__ import annotations

from pathlib import Path

from control.errors import DatapathError

OFFSETS = Path("/proc/self/timens_offsets")


def offset_of(text: str) -> tuple[int, int]:
    """By how much CLOCK_MONOTONIC differs from the kernel's: seconds and ns, as the file has them."""
    for line in text.splitlines():
        name, *numbers = line.split()
        if name in ("monotonic", "1") and len(numbers) == 2:
            return int(numbers[0]), int(numbers[1])
    return 0, 0


def refuse_another(path: Path = OFFSETS) -> None:
    """Raises DatapathError in a time namespace in which every flow would look hours old, or not born yet."""
    try:
        seconds, nanoseconds = offset_of(path.read_text())
    except OSError:
        return  # a kernel without time namespaces
    if seconds or nanoseconds:
        raise DatapathError(
            f"CLOCK_MONOTONIC is {seconds}.{nanoseconds:09} s away from the kernel's here: "
            "run earshotd in the host's own time namespace"
        )
