# SPDX-License-Identifier: Apache-2.0
"""What the kernel tells in /proc of a BPF descriptor and in no other place (bpf_map_show_fdinfo)."""

from __future__ import annotations

from pathlib import Path


def read(fd: int) -> dict[str, str]:
    """The fields of a descriptor of this process: `memlock` (bytes), `prog_jited`, and so on."""
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
