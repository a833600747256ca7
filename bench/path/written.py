# SPDX-License-Identifier: Apache-2.0
"""Which maps packets of established flows write to: all that the program has, compared before and after.

It finds what changes. What is stored to without a change of value, it does not find: see stores.py for that.
"""

from __future__ import annotations

import json
import os
import struct
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from bench.path import plan
from bench.path.stores import program_id
from bench.path.traffic import Packets
from bench.tables import Shape, Table
from control import libbpf
from tests.lab.host import run

SIZE = 200
MACS = (bytes(6), bytes(6))
_NOT_LISTED = ("queue", "stack")


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
        maps = _maps(table.program_fd)
        before = {number: _dump(number) for number in maps}
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
        for number, name in maps.items():
            after = _dump(number)
            changed = [key for key, value in after.items() if before[number].get(key) != value]
            if changed:
                # The numbers of an array's entries, or the keys of a hash; a CPU's number is behind it.
                entries = sorted(
                    {key for key, _ in changed}, key=str if isinstance(changed[0][0], str) else None
                )
                cpus = sorted({cpu for _, cpu in changed if cpu is not None})
                places.append(Place(name, tuple(entries), tuple(cpus)))
        return places


def _maps(program_fd: int) -> dict[int, str]:
    """The program's maps, ids and names; without queues, which cannot be listed."""
    shown = json.loads(run(["bpftool", "-j", "prog", "show", "id", program_id(program_fd)]))
    maps = (json.loads(run(["bpftool", "-j", "map", "show", "id", str(one)])) for one in shown["map_ids"])
    return {
        one["id"]: one["name"] for one in maps if one["type"] not in _NOT_LISTED and not one.get("frozen")
    }


def _dump(number: int) -> dict[tuple[Any, int | None], str]:
    """Values by key and, where each CPU has its own, CPU."""
    found: dict[tuple[Any, int | None], str] = {}
    for entry in json.loads(run(["bpftool", "-j", "map", "dump", "id", str(number)])):
        raw = bytes(int(byte, 16) for byte in entry["key"])
        key = int.from_bytes(raw, "little") if len(raw) == 4 else raw.hex()
        for value in entry.get("values") or [entry]:
            found[key, value.get("cpu")] = "".join(value["value"])
    return found
