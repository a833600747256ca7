# SPDX-License-Identifier: Apache-2.0
"""Which pinned maps fit the program and its settings, and what becomes of those that do not."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from control import carry, libbpf
from control.datapath import Datapath
from control.errors import DatapathError
from control.libbpf import BpfObject
from control.staging import Staging


@dataclass(frozen=True)
class Plan:
    """What becomes of the maps that are there.

    Attributes:
        reused: those that fit, by name.
        carried: descriptors of those that do not, by the names of the maps that are filled from them.
        obsolete: pins that go in the end.
    """

    reused: set[str] = field(default_factory=set)
    carried: dict[str, int] = field(default_factory=dict)
    obsolete: set[str] = field(default_factory=set)

    def close(self) -> None:
        while self.carried:
            os.close(self.carried.popitem()[1])


def refuse_other_versions(program: BpfObject, pin_path: Path) -> None:
    """Raises DatapathError for maps of a layout that this version knows nothing of."""
    ours = set(program.map_names())
    known = ours | {one.name for one in carry.FORMER.values()}
    bases = {name.rpartition("_v")[0] for name in ours}
    for pin in sorted(pin_path.iterdir()):
        if pin.name not in known and pin.name.rpartition("_v")[0] in bases:
            raise DatapathError(
                f"{pin} is of a version that this one cannot take over, a newer one perhaps: "
                "install that again, or end all calls with: earshot datapath remove"
            )


def repair(stage: Staging, program: BpfObject, pin_path: Path, running: set[int]) -> None:
    """Brings to an end what somebody began who died over it. `running`: the programs that links have."""

    def bring_over(staged: dict[str, Path]) -> None:
        formers = {name: before for name in staged if (before := carry.former(name))}
        pins = {name: pin_path / name for name in program.map_names()} | staged
        if all(pin.exists() for pin in pins.values()):
            old = {
                name: libbpf.get_pinned(pin_path / before.name)
                for name, before in formers.items()
                if (pin_path / before.name).exists()
            }
            datapath = Datapath({name: libbpf.get_pinned(pin) for name, pin in pins.items()})
            carrier = carry.Carrier(old, datapath, set(staged))
            carrier.carry_flows()
            carrier.close()
            datapath.close()
            for fd in old.values():
                os.close(fd)

    stage.repair(running, bring_over)
