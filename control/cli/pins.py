# SPDX-License-Identifier: Apache-2.0
"""What is pinned, as the kernel tells of it: of any version, whether or not this one can read it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from control import fdinfo
from control.cli.output import Row
from control.errors import DatapathError

if TYPE_CHECKING:
    from control.check.links import Link

# enum bpf_map_type
_TYPES = {
    1: "hash",
    2: "array",
    4: "perf_event_array",
    5: "percpu_hash",
    6: "percpu_array",
    9: "lru_hash",
    11: "lpm_trie",
    22: "queue",
    27: "ringbuf",
}


def names(pin_path: Path) -> list[str]:
    """The pins, by name.

    Raises:
        DatapathError: there are none.
    """
    # Folders are an upgrade's that is under way (control/staging.py).
    found = sorted(pin.name for pin in pin_path.iterdir() if not pin.is_dir()) if pin_path.is_dir() else []
    if not found:
        raise DatapathError(f"nothing is pinned in {pin_path}: has earshotd run, with this pin_path?")
    return found


def link_rows(pin_path: Path, links: Mapping[int, Link]) -> Iterator[Row]:
    """Where the program is attached. `links`: those of the host, by ifindex."""
    from control import pinned  # as in pinned_maps()

    for attached in pinned.attached(pin_path):
        link = links.get(attached.ifindex)
        modes = {number: mode for mode, number in link.programs.items()} if link else {}
        # A link of another network namespace may have the ifindex of one here, but not the program.
        here = link is not None and attached.program_id in modes
        yield {
            "interface": link.name if link and here else None,
            "ifindex": attached.ifindex or None,
            "mode": modes.get(attached.program_id),
            "program_id": attached.program_id,
        }


def map_rows(pin_path: Path, pins: list[str]) -> Iterator[Row]:
    """The maps and the memory that each takes."""
    from control import libbpf

    for name in pins:
        if name.startswith("link_"):
            continue
        fd = libbpf.get_pinned(pin_path / name)
        try:
            told = fdinfo.read(fd)
        finally:
            os.close(fd)
        kind = int(told["map_type"])
        yield {
            "map": name,
            "id": int(told["map_id"]),
            "type": _TYPES.get(kind, str(kind)),
            "max_entries": int(told["max_entries"]),
            "memory_bytes": int(told["memlock"]),
        }
