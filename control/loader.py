# SPDX-License-Identifier: Apache-2.0
"""Loads, pins, attaches, takes over and removes the program.

Packets do not depend on any of it: the pinned maps hold the state, and each link's pin holds
the program in place while no daemon runs. Under the pin path: a pin for each map, by its
name, and ``link_<ifindex>`` for each of the host's links that the program is attached to.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from control import (
    abi,
    attaching,
    bpffs,
    carry,
    fitting,
    hostlinks,
    libbpf,
    memory,
    routable,
    staging,
    time_namespace,
)
from control.addresses import Endpoint
from control.config import Config
from control.datapath import Datapath
from control.errors import DatapathError
from control.foreign import FlowEntering
from control.hostlinks import HostLink
from control.libbpf import BpfObject
from control.pinned import LINK_PIN, attached, explain, object_path

PROGRAM = "earshot"
ENTERING = "enter_flows"
_OURS = re.compile(rf"[a-z0-9_]+_v\d+|link_\d+|{staging.NEXT}|{staging.COMMIT}")


@dataclass
class Loaded:
    """A datapath in a daemon's hands: nobody else sets up or removes its pins meanwhile.

    xdp_mode: native or generic, the same on all links.
    """

    datapath: Datapath
    program_fd: int
    xdp_mode: str
    entering: FlowEntering
    _lock: ExitStack
    _replacing: threading.Lock = field(default_factory=threading.Lock)

    def program_id(self) -> int:
        """The kernel's number of the program that is attached."""
        return self.program().id

    def program(self) -> libbpf.ProgramInfo:
        """The program that is attached; any thread may ask."""
        with self._replacing:
            return libbpf.program_info(self.program_fd)

    def apply(self, config: Config, links: Sequence[HostLink]) -> Datapath | None:
        """Loads the program anew, as it is installed now, and takes over a changed configuration.

        Links lose their program at no time, those excepted that are not named any more. The maps stay, but
        for those that are too small for what the configuration wants: calls go over into larger ones.
        `links` are those of config.interfaces.

        Returns the maps that were too small, where there were any: they are to be closed when nobody can
        still be reading them.

        Raises:
            ConfigError: the host has too little memory for larger maps.
            DatapathError: the program does not load, or its maps are others: what runs goes on.
        """
        former = None
        with ExitStack() as undo, BpfObject(object_path()) as program:
            undo.callback(self.datapath.set_addresses, *self.datapath.addresses())
            try:
                plan = fitting.make_plan(program, config)
                undo.callback(plan.close)
                self._refuse_other_maps(program, plan)
                if plan.carries:
                    fitting.memory_need(program, config, plan.reused).check(memory.available())
                program.load()
                program_fd = os.dup(program.program_fd(PROGRAM))
                undo.callback(os.close, program_fd)
                if plan.carries:
                    former = _open_maps(program, undo)
                    _enter_addresses(former, config, plan)
                    mode = _carry_over(
                        plan, program, former, program_fd, links, config, undo, self.program_fd
                    )
                    self.datapath.trade_places(former)
                else:
                    mode = _install(program_fd, self.datapath, links, config, plan, undo)
                plan.close()
                entering_fd = os.dup(program.program_fd(ENTERING))
            except OSError as error:
                raise DatapathError(explain(error)) from error
            undo.pop_all()
        self.entering.replace(entering_fd)
        with self._replacing:
            os.close(self.program_fd)
            self.program_fd, self.xdp_mode = program_fd, mode
        return former

    def _refuse_other_maps(self, program: BpfObject, plan: fitting.Plan) -> None:
        """Raises DatapathError unless the maps are those that this daemon knows, or larger ones of them."""
        missing = set(program.map_names()) - plan.reused
        other = missing - carry.SIZED
        if other or (missing & carry.TABLE and set(program.map_names()) != set(self.datapath.descriptors)):
            raise DatapathError(
                f"the program that is installed has other maps ({', '.join(sorted(other or missing))}): "
                "restart earshotd, which carries calls over"
            )

    def close(self) -> None:
        """Lets go of everything; the program stays attached and forwards."""
        self.datapath.close()
        self.entering.close()
        os.close(self.program_fd)
        self._lock.close()


def _open_maps(program: BpfObject, undo: ExitStack) -> Datapath:
    """The maps of a program that is loaded."""
    datapath = Datapath({name: os.dup(program.map_fd(name)) for name in program.map_names()})
    undo.callback(datapath.close)
    return datapath


def _carry_over(
    plan: fitting.Plan,
    program: BpfObject,
    datapath: Datapath,
    program_fd: int,
    links: Sequence[HostLink],
    config: Config,
    undo: ExitStack,
    former_fd: int | None = None,
) -> str:
    """Fills the new ones of a datapath's maps from those that do not fit, and puts the program on its links.

    Returns the mode that it has there.

    `former_fd`: the program that these get again if some of them do not take the new one.
    """
    stage = staging.Staging(config.pin_path)
    carrier = carry.Carrier(plan.carried, plan.flows, datapath, plan.layout, plan.relays)
    undo.callback(_back_out, stage, carrier, program_fd, former_fd, config.pin_path)
    new = [name for name in program.map_names() if name not in plan.reused]
    stage.begin({name: program.map_fd(name) for name in new}, program_fd)
    carrier.carry_all()
    stage.commit()
    # ---- from here to the end, old and new carry packets side by side ----
    mode = _install(program_fd, datapath, links, config, plan, undo)
    carrier.carry_changes()
    stage.finish()
    return mode


def open_datapath(config: Config) -> Loaded:
    """Loads the program, or takes over what runs, and attaches it to config.interfaces.

    What this call made is undone when it fails; what it found is left as it was, the
    addresses excepted.

    Raises:
        ConfigError: an interface is not there, or the host has too little memory.
        DatapathError: anything else, with its cure where one is known.
    """
    time_namespace.refuse_another()
    links = hostlinks.find(config.interfaces)
    bpffs.ensure(config.pin_path)
    with ExitStack() as undo, ExitStack() as lock, BpfObject(object_path()) as program:
        lock.enter_context(bpffs.locked(config.pin_path))
        try:
            stage = staging.Staging(config.pin_path)
            running = {link.program_id for link in attached(config.pin_path)}
            fitting.repair(stage, program, config.pin_path, running)
            plan = fitting.make_plan(program, config)
            undo.callback(plan.close)
            new = [name for name in program.map_names() if name not in plan.reused]
            if new:
                # Not where all maps are there: calls go on in them, whatever else takes the host's memory.
                fitting.memory_need(program, config, plan.reused).check(memory.available())
            program.load()
            datapath = _open_maps(program, undo)
            program_fd = os.dup(program.program_fd(PROGRAM))
            undo.callback(os.close, program_fd)
            _enter_addresses(datapath, config, plan)
            # New maps are filled before they are pinned: who dies in between leaves nothing half full.
            if "free_hops_v1" in new:
                datapath.fill_free_hops()
            if plan.flows is None and not datapath.is_laid_out:
                datapath.lay_out(plan.layout)
            hostlinks.let_lo_forward()
            if plan.carries:
                mode = _carry_over(plan, program, datapath, program_fd, links, config, undo)
            else:
                for name in new:
                    libbpf.pin(program.map_fd(name), config.pin_path / name)
                    undo.callback((config.pin_path / name).unlink)
                mode = _install(program_fd, datapath, links, config, plan, undo)
            for name in carry.obsolete():
                (config.pin_path / name).unlink(missing_ok=True)
            plan.close()
            entering = FlowEntering(os.dup(program.program_fd(ENTERING)))
        except OSError as error:
            raise DatapathError(explain(error)) from error
        undo.pop_all()
        return Loaded(datapath, program_fd, mode, entering, lock.pop_all())


def _back_out(
    stage: staging.Staging, carrier: carry.Carrier, program_fd: int, former_fd: int | None, pin_path: Path
) -> None:
    """After a failure nothing has happened, unless a link has the new program: the next start goes on."""
    program_id = libbpf.program_id(program_fd)
    if former_fd is not None:
        for pin in pin_path.glob(f"{LINK_PIN}*"):
            fd = libbpf.get_pinned(pin)
            if libbpf.link_info(fd).program_id == program_id:
                libbpf.update_link(fd, former_fd)
            os.close(fd)
    if program_id not in {link.program_id for link in attached(pin_path)}:
        stage.discard()
        carrier.give_up()


def _install(
    program_fd: int,
    datapath: Datapath,
    links: Sequence[HostLink],
    config: Config,
    plan: fitting.Plan,
    undo: ExitStack,
) -> str:
    """Enters what the configuration says, and puts the program on its links and on no others.

    Returns the mode that it has there.
    """
    _numbered(datapath.vips, config.vips)  # first what may be refused
    keys = routable.read_keys(config.fleet_keys)
    _enter_links(datapath, links)
    mode = attaching.put(program_fd, links, config.pin_path, config.xdp_mode, undo)
    _enter_addresses(datapath, config, plan)
    datapath.offer(plan.relays)
    datapath.set_exempt(config.source_exempt)
    datapath.set_fleet_keys(keys)
    _detach_others(links, config.pin_path)
    return mode


def remove(pin_path: Path) -> list[str]:
    """Detaches the program everywhere and forgets the maps: calls through it end.

    Returns what was removed, by pin name.

    Raises:
        DatapathError: a daemon runs there, or something is there that Earshot has not made.
    """
    if not pin_path.is_dir():
        return []
    refuse_foreign(pin_path)
    with bpffs.locked(pin_path):
        # Links first, so that no packet meets a program whose maps are going.
        pins = sorted(pin_path.iterdir(), key=lambda pin: (not pin.name.startswith(LINK_PIN), pin.name))
        staging.Staging(pin_path).discard()
        for pin in pins:
            pin.unlink(missing_ok=True)
        pin_path.rmdir()
    return [pin.name for pin in pins]


def refuse_foreign(pin_path: Path) -> None:
    """Raises DatapathError unless everything in a folder was pinned by some version of Earshot."""
    others = sorted(pin.name for pin in pin_path.iterdir() if not _OURS.fullmatch(pin.name))
    if others or not bpffs.is_mounted(pin_path):
        holds = ", ".join(others) or "ordinary files"
        raise DatapathError(f"{pin_path} is not Earshot's alone, it holds {holds}: nothing is removed")


def memory_need(config: Config) -> memory.Need:
    """What a configuration takes of the host; of maps, those that are not pinned yet."""
    with BpfObject(object_path()) as program:
        for name, entries in fitting.map_sizes(config, fitting.wanted_layout(config)).items():
            program.set_max_entries(name, entries)
        made = [name for name in program.map_names() if os.path.lexists(config.pin_path / name)]
        return fitting.memory_need(program, config, made)


def _enter_addresses(datapath: Datapath, config: Config, plan: fitting.Plan) -> None:
    """Numbers VIPs; those that were known keep their numbers. Relay addresses that are leaving stay."""
    vips = _numbered(datapath.vips, config.vips)
    datapath.set_addresses(vips, {**plan.leaving, **plan.foreign, **plan.relays}, plan.foreign.keys())


def _numbered(known: Sequence[Endpoint], wanted: Sequence[Endpoint]) -> dict[int, Endpoint]:
    numbers = {vip: number for number, vip in enumerate(known)}
    for vip in wanted:
        numbers.setdefault(vip, len(numbers))
    if len(numbers) > abi.VIP_MAX:
        raise DatapathError(
            f"more than {abi.VIP_MAX} VIPs over time: end all calls with: earshot datapath remove"
        )
    return {numbers[vip]: vip for vip in wanted}


def _enter_links(datapath: Datapath, links: Sequence[HostLink]) -> None:
    for link in links:
        info = np.zeros(1, abi.LINK_INFO)
        info["mac"], info["mtu"] = np.void(link.mac), min(link.mtu, 0xFFFF)
        datapath.links.put(np.uint32(link.ifindex).tobytes(), info.tobytes())


def _detach_others(links: Sequence[HostLink], pin_path: Path) -> None:
    """Detaches the program from links that a former configuration named."""
    wanted = {f"{LINK_PIN}{link.ifindex}" for link in links}
    for pin in pin_path.glob(f"{LINK_PIN}*"):
        if pin.name not in wanted:
            pin.unlink()
