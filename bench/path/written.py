# SPDX-License-Identifier: Apache-2.0
"""Which maps packets of established flows write to: all that the program has, compared before and after.

It finds what changes. What is stored to without a change of value, it does not find: see stores.py for that.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from bench.path import plan
from bench.path.traffic import Packets
from bench.tables import Shape, Table
from control import libbpf

SIZE = 200
MACS = (bytes(6), bytes(6))
_ARRAY, _PERCPU_ARRAY = 2, 6
_NOT_LISTED = (4, 22, 23)  # arrays of perf events, queues, stacks


@dataclass(frozen=True)
class Place:
    """A map that was written to.

    entries: that changed, by their numbers (or keys, in hexadecimal).
    cpus: whose values changed, of a map that has one for each CPU; else empty.
    """

    map: str
    entries: tuple[int | str, ...]
    cpus: tuple[int, ...]

    def __str__(self) -> str:
        whose = f"the values of CPU {', '.join(map(str, self.cpus))} in " if self.cpus else ""
        numbers = [entry for entry in self.entries if isinstance(entry, int)]
        listed = ", ".join(map(str, self.entries))
        if numbers and len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
            listed = f"{numbers[0]} to {numbers[-1]}"
        return f"{self.map}: {whose}entries {listed}"


def written(flows: int, sent: range, cpu: int) -> list[Place]:
    """Sends both directions of some of a table's flows, each several times, on one CPU."""
    forms = plan.port_each(4)
    with closing(Table(Shape(4, 1, flows))) as table:
        table.fill()
        maps = _open(table.program_fd)
        before = {fd: _dump(fd) for fd in maps}
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {cpu})
        try:
            for way in (forms.up, forms.down):
                with closing(Packets(way, MACS, SIZE, flows)) as packets:
                    packets.set(in_turn=True, shares={cpu: sent})
                    libbpf.update(packets.under_test, bytes(4), struct.pack("=I", table.program_fd))
                    libbpf.run_program(packets.drive, packets.frame, repeat=3 * len(sent))
        finally:
            os.sched_setaffinity(0, allowed)
        places = []
        for fd, name in maps.items():
            after = _dump(fd)
            os.close(fd)
            changed = [key for key, value in after.items() if before[fd].get(key) != value]
            if changed:
                # The numbers of an array's entries, or the keys of a hash; a CPU's number is behind it.
                entries = sorted(
                    {key for key, _ in changed}, key=str if isinstance(changed[0][0], str) else None
                )
                cpus = sorted({cpu for _, cpu in changed if cpu is not None})
                places.append(Place(name, tuple(entries), tuple(cpus)))
        return places


def _open(program_fd: int) -> dict[int, str]:
    """Descriptors and names of the program's maps; without those of which nothing can be looked up."""
    found = {}
    for number in libbpf.program_map_ids(program_fd):
        fd = libbpf.open_map(number)
        info = libbpf.map_info(fd)
        if info.type in _NOT_LISTED:
            os.close(fd)
        else:
            found[fd] = info.name
    return found


def _dump(fd: int) -> dict[tuple[int | str, int | None], bytes]:
    """Values by number (or key) and, where each CPU has its own, CPU."""
    info = libbpf.map_info(fd)
    if info.type == _ARRAY:
        return {(key, None): value for key, value in _entries(fd, info.value_size)}
    if info.type == _PERCPU_ARRAY:
        size = -(-info.value_size // 8) * 8
        cpus = libbpf.possible_cpus()
        return {
            (key, cpu): values[cpu * size : (cpu + 1) * size]
            for key, values in _entries(fd, size * cpus)
            for cpu in range(cpus)
        }
    return {
        (key.hex(), None): libbpf.lookup(fd, key, info.value_size) or b""
        for key in libbpf.iterate_keys(fd, info.key_size)
    }


def _entries(fd: int, size: int) -> Iterator[tuple[int, bytes]]:
    """Of an array: numbers and values, of so many bytes."""
    for keys, values in libbpf.iterate_batches(fd, np.uint32, np.dtype((np.void, size))):
        yield from zip(keys.tolist(), map(bytes, values), strict=True)
