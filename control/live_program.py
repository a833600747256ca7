# SPDX-License-Identifier: Apache-2.0
"""The program that links have: which it is, and by which constants it works."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from control import abi, libbpf, pinned
from control.errors import DatapathError


class Budget(NamedTuple):
    """A token bucket (bpf/budget.h), in ns: a token's price, and what may be saved up beside one token."""

    interval: int
    burst: int

    @property
    def tokens(self) -> int:
        """When it is whole; 0: it is switched off."""
        return self.burst // self.interval + 1 if self.interval else 0

    def left(self, full_at: int, now: int) -> int | None:
        """Tokens that there are, of a bucket that is whole again at `full_at`; None: it is switched off."""
        if not self.interval:
            return None
        return max(0, min(self.tokens, (self.burst - max(0, full_at - now)) // self.interval + 1))


class LiveProgram(NamedTuple):
    """
    Attributes:
        ids: of the programs, by the kernel; more than one while another takes over.
        ifindexes: of the links that are there.
        tag: of its instructions.
        rodata: its constants; `settings` is the same with names, one abi.SETTINGS.
    """

    ids: Sequence[int]
    ifindexes: Sequence[int]
    tag: str
    rodata: bytes

    @property
    def settings(self) -> Any:
        return np.frombuffer(self.rodata[: abi.SETTINGS.itemsize], abi.SETTINGS)[0]

    def budget(self, name: str) -> Budget:
        """`name`: source, binding or session."""
        return Budget(int(self.settings[f"{name}_interval"]), int(self.settings[f"{name}_burst"]))

    @property
    def idle_seconds(self) -> int | None:
        """After which a flow is ended. Known where sessions have a budget, which is one of that time."""
        budget = self.budget("session")
        return round(budget.interval * budget.tokens / 1e9) if budget.interval else None


def read(pin_path: Path) -> LiveProgram:
    """
    Raises:
        DatapathError: no link has the program, or who asks may not look at it.
    """
    links = [link for link in pinned.attached(pin_path) if link.ifindex]
    if not links:
        raise DatapathError(
            f"no link has the program of {pin_path}: packets are not looked at; start earshotd"
        )
    try:
        program = libbpf.open_program(links[0].program_id)
    except PermissionError as error:
        raise DatapathError("looking at the program in the kernel needs root (CAP_SYS_ADMIN)") from error
    try:
        return LiveProgram(
            sorted({link.program_id for link in links}),
            [link.ifindex for link in links],
            libbpf.program_tag(program),
            _rodata(program),
        )
    finally:
        os.close(program)


def _rodata(program: int) -> bytes:
    for number in libbpf.program_map_ids(program):
        fd = libbpf.open_map(number)
        try:
            info = libbpf.map_info(fd)
            if info.name.endswith(".rodata"):
                value = libbpf.lookup(fd, bytes(4), info.value_size)
                if value is not None and len(value) >= abi.SETTINGS.itemsize:
                    return value
        finally:
            os.close(fd)
    raise DatapathError("the program in the kernel has no settings that this version knows")
