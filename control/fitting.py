# SPDX-License-Identifier: Apache-2.0
"""What becomes of the maps that are there when a program is loaded: some are kept, some filled anew."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from control import abi, carry, jiffies, libbpf, local_table, memory, relay_numbers
from control.addresses import IPAddress, from_bytes
from control.carry import QUALITY, QUALITY_MORE, Flows, Former
from control.config import Config
from control.datapath import Datapath
from control.errors import DatapathError
from control.former_tables import RingTable
from control.layout import Layout
from control.libbpf import Array, BpfObject, MapShape
from control.maps import ArrayMap
from control.staging import Staging


@dataclass(frozen=True)
class Plan:
    """What becomes of the maps that are there.

    Attributes:
        layout: of the flow table, as the program has it.
        relays: addresses that are to be served, by their numbers.
        leaving: likewise, those that are not, and at which flows may be left.
        foreign: likewise, those of the group's other relays.
        reused: maps that fit, by name.
        carried: descriptors of those that do not, and what they are, by the names of the maps that are
            filled from them; but for the flow table's.
        flows: the flow table that the new one is filled from; None where it is kept, or there was none.
        replaced: maps that are there and do not fit, and from which nothing is carried.
    """

    layout: Layout
    relays: Mapping[int, IPAddress]
    leaving: Mapping[int, IPAddress]
    foreign: Mapping[int, IPAddress]
    reused: set[str] = field(default_factory=set)
    carried: dict[str, tuple[Former, int]] = field(default_factory=dict)
    flows: Flows | None = None
    replaced: set[str] = field(default_factory=set)

    @property
    def carries(self) -> bool:
        """Whether new maps take the places of others, in which packets find what they need meanwhile."""
        return bool(self.carried or self.replaced) or self.flows is not None

    def close(self) -> None:
        while self.carried:
            os.close(self.carried.popitem()[1][1])
        if self.flows is not None:
            self.flows.close()


def make_plan(program: BpfObject, config: Config) -> Plan:
    """Gives a program that is not loaded yet its sizes, settings and the maps that it goes on with.

    Raises:
        DatapathError: maps are there that belong to another version or configuration.
    """
    _refuse_other_versions(program, config.pin_path)
    flows = Flows.find(config.pin_path)
    _refuse_other_ports(config, flows)
    # Those for which there are records: a start that failed may have entered more.
    numbered = _relays(config.pin_path)[: flows.table.relays] if flows is not None else ()
    present = _present(config.pin_path, numbered)
    own = set(config.relay_addresses)
    numbers = relay_numbers.assign(
        numbered, present, (*config.relay_addresses, *config.group_relay_addresses)
    )
    relays = {number: address for number, address in numbers.items() if address in own}
    foreign = {number: address for number, address in numbers.items() if address not in own}
    leaving = {number: address for number, address in present.items() if number not in numbers}
    wanted = _layout_for(config, max(len(numbered), max(numbers) + 1))
    known = flows.table.layout if flows is not None and isinstance(flows.table, RingTable) else None
    # The key of its hash is not compared, and is that of the maps.
    layout = known if known is not None and known == wanted else wanted
    sizes = map_sizes(config, layout)
    plan = Plan(layout, relays, leaving, foreign)
    if layout is known and _fits(config.pin_path, carry.TABLE, sizes):
        for name in carry.TABLE:
            _reuse(program, config.pin_path, name, plan)
        if flows is not None:
            flows.close()
    elif flows is None:
        for name in carry.TABLE:  # of who died before it was whole; no packet has come to it
            (config.pin_path / name).unlink(missing_ok=True)
    else:
        plan = Plan(layout, relays, leaving, foreign, flows=flows)
    for shape in program.map_shapes():
        if shape.name not in carry.TABLE:
            _plan_one(program, config.pin_path, shape, sizes, plan)
    program.set_rodata(_settings(layout, config).tobytes())
    for name, entries in sizes.items():
        if name not in plan.reused:
            program.set_max_entries(name, entries)
    return plan


def _plan_one(program: BpfObject, pin_path: Path, shape: MapShape, sizes: dict[str, int], plan: Plan) -> None:
    name = shape.name
    if (pin_path / name).exists():
        there = _info(pin_path / name)
        if name in carry.MAY_BE_LARGER and sizes[name] <= there.max_entries:
            sizes[name] = there.max_entries  # fewer are a matter of the registry alone
        if there.max_entries == sizes.get(name, shape.max_entries):
            _reuse(program, pin_path, name, plan)
            return
        if name in carry.BEGUN_AGAIN:
            plan.replaced.add(name)
            return
    for origin in carry.origins(name):
        if (pin_path / origin.name).exists():
            plan.carried[name] = (origin, libbpf.get_pinned(pin_path / origin.name))
            return


def _reuse(program: BpfObject, pin_path: Path, name: str, plan: Plan) -> None:
    fd = libbpf.get_pinned(pin_path / name)
    program.reuse_map(name, fd)
    os.close(fd)
    plan.reused.add(name)


def _fits(pin_path: Path, names: Collection[str], sizes: dict[str, int]) -> bool:
    """Whether all of these are there, in the right sizes."""
    return all(
        (pin_path / name).exists() and sizes.get(name) in (None, _info(pin_path / name).max_entries)
        for name in names
    )


def _info(pin: Path) -> libbpf.MapInfo:
    fd = libbpf.get_pinned(pin)
    try:
        return libbpf.map_info(fd)
    finally:
        os.close(fd)


def repair(stage: Staging, program: BpfObject, pin_path: Path, running: set[int]) -> None:
    """Brings to an end what somebody began who died over it. `running`: the programs that links have."""

    def bring_over(staged: dict[str, Path]) -> None:
        flows = Flows.find(pin_path) if carry.FLOWS in staged else None
        if flows is None:
            return  # it was kept, or its pin has been moved already, which comes after all else
        pins = {name: pin_path / name for name in program.map_names()} | staged
        datapath = Datapath({name: libbpf.get_pinned(pin) for name, pin in pins.items()})
        carry.Carrier({}, flows, datapath, datapath.layout).carry_changes()
        datapath.close()
        flows.close()

    stage.repair(running, bring_over)


# ---- what fits ---------------------------------------------------------------------------


def _refuse_other_versions(program: BpfObject, pin_path: Path) -> None:
    """Raises DatapathError for maps of a layout that this version knows nothing of."""
    ours = set(program.map_names())
    known = ours | carry.obsolete()
    bases = {name.rpartition("_v")[0] for name in ours}
    for pin in sorted(pin_path.iterdir()):
        if pin.name not in known and pin.name.rpartition("_v")[0] in bases:
            raise DatapathError(
                f"{pin} is of a version that this one cannot take over, a newer one perhaps: "
                "install that again, or end all calls with: earshot datapath remove"
            )


def _refuse_other_ports(config: Config, flows: Flows | None) -> None:
    """Raises DatapathError where calls are at relay ports that are not there any more."""
    if flows is None:
        return
    known = flows.table.ports
    if known != (config.relay_ports.first, config.relay_ports.last):
        raise DatapathError(
            f"the maps in {config.pin_path} belong to relay ports {known[0]}-{known[1]}: calls are at these, "
            "so go back to them, or end all calls with: earshot datapath remove"
        )


def _relays(pin_path: Path) -> Sequence[IPAddress]:
    try:
        fd = libbpf.get_pinned(pin_path / "relays_v1")
    except FileNotFoundError:
        return ()
    raw = [record["addr"].tobytes() for record in ArrayMap(fd, abi.RELAY).read()]
    os.close(fd)
    return tuple(from_bytes(address) for address in raw if any(address))


def _present(pin_path: Path, known: Sequence[IPAddress]) -> dict[int, IPAddress]:
    """Of the relay addresses for which there are records: those whose packets are ours, by number."""
    try:
        fd = libbpf.get_pinned(pin_path / "locals_v2")
    except FileNotFoundError:  # a former layout, which let none go
        return dict(enumerate(known))
    table = ArrayMap(fd, abi.LOCALS).get(0)
    os.close(fd)
    return {number: one for number, one in local_table.relays_in(table).items() if number < len(known)}


# ---- sizes and settings ------------------------------------------------------------------


def wanted_layout(config: Config) -> Layout:
    """Of new maps."""
    return _layout_for(config, len(config.relay_addresses) + len(config.group_relay_addresses))


def _layout_for(config: Config, relays: int) -> Layout:
    layout = Layout(config.relay_ports.first, config.relay_ports.last, relays)
    if layout.records > abi.FLOW_MAX:
        raise DatapathError(
            f"{relays} relay addresses of {layout.span} ports, with those at which flows are left or have "
            f"been, are more than the {abi.FLOW_MAX} flows that a table has room for: name fewer addresses"
        )
    return layout


def map_sizes(config: Config, layout: Layout) -> dict[str, int]:
    """Entries of the maps whose size follows from the configuration."""
    return {
        "sessions_v1": config.max_sessions,
        "backends_v1": config.max_backends + 1,  # entry 0 is not used
        **layout.sizes(),
        **dict.fromkeys((QUALITY, QUALITY_MORE), layout.records if config.quality else 1),
    }


def program_settings(layout: Layout) -> Array:
    """One abi.SETTINGS without budgets."""
    settings = np.zeros(1, abi.SETTINGS)
    settings["layout"] = layout.record()
    settings["relay_ratio"] = layout.relay_ratio
    settings["jiffy_ns"], settings["jiffy_offset"] = jiffies.measure()
    return settings


def _settings(layout: Layout, config: Config) -> Array:
    settings = program_settings(layout)
    settings["quality"] = config.quality
    for budget, tokens, seconds in (
        ("source", 2 * config.source_requests_per_second, 2),
        ("binding", 2 * config.bindings_per_second, 2),
        ("session", config.flows_per_session, config.flow_idle_seconds),
    ):
        # Both in ns: what a token costs, and how much may be saved up.
        settings[f"{budget}_interval"] = seconds * 1_000_000_000 // tokens if tokens else 0
        settings[f"{budget}_burst"] = (seconds * 1_000_000_000 // tokens) * (tokens - 1) if tokens else 0
    return settings


def memory_need(program: BpfObject, config: Config, made: Collection[str]) -> memory.Need:
    """What it takes to make a program's maps, those `made` already left out, and to run over them."""
    flows = wanted_layout(config).records
    return memory.need(program.map_shapes(), made, config.max_sessions, flows, libbpf.possible_cpus())
