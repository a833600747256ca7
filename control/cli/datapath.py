# SPDX-License-Identifier: Apache-2.0
"""`earshot datapath`."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from control import abi, bpffs
from control.cli import pins
from control.cli.daemon_client import connected, socket_option
from control.cli.options import Command, FailedError, form_option, pin_path_option, pinned_maps
from control.cli.output import Column, number, write_list, write_one
from control.errors import DatapathError
from control.units import in_bytes

_LINK_COLUMNS = (
    Column("INTERFACE", "interface"),
    number("IFINDEX", "ifindex"),
    Column("MODE", "mode"),
    number("PROGRAM", "program_id"),
)
_MAP_COLUMNS = (
    Column("MAP", "map"),
    number("ID", "id"),
    Column("TYPE", "type"),
    number("ENTRIES", "max_entries"),
    number("MEMORY", "memory_bytes", in_bytes),
)
_SUMMARY_COLUMNS = (Column("Pinned in", "pin_path"), Column("Memory", "memory_bytes", in_bytes))


@click.group("datapath")
def group() -> None:
    """The program in the kernel, and its maps."""


@group.command("status", cls=Command)
@form_option
@pin_path_option
def status(form: str, pin_path: Path) -> None:
    """Show where the program is attached, in which mode, and what its maps take.

    A link shows as "-" if it is gone, or in another network namespace than this command.

    \b
    Examples:
      earshot datapath status
      earshot datapath status -o json | jq -r '.links[].mode'
    """
    from control.check import links  # not before it is needed: pyroute2 is slow to load

    found = pins.names(pin_path)
    attached = list(pins.link_rows(pin_path, links.read()))
    maps = list(pins.map_rows(pin_path, found))
    summary = {"pin_path": str(pin_path), "memory_bytes": sum(row["memory_bytes"] for row in maps)}
    if form == "json":
        write_one({**summary, "links": attached, "maps": maps}, (), form)
        return
    write_one(summary, _SUMMARY_COLUMNS, form)
    click.echo()
    write_list(attached, _LINK_COLUMNS, form, "links: the program is attached nowhere")
    click.echo()
    write_list(maps, _MAP_COLUMNS, form, "maps")


@group.command("reload", cls=Command)
@socket_option
def reload(socket_path: Path) -> None:
    """Have earshotd read its configuration again; its calls go on.

    VIPs, interfaces, limits, budgets and who may register what can change so. What cannot is
    refused, and then nothing has changed. SIGHUP does the same, and tells its log.

    
    Examples:
      earshot datapath reload
    """
    with connected(socket_path) as daemon:
        changed = daemon.reload()
    click.echo(f"Changed: {', '.join(changed) or 'nothing'}.", err=True)


@group.command("upgrade", cls=Command)
@socket_option
def upgrade(socket_path: Path) -> None:
    """Put the program that is installed now in place of the one that runs; no packet is lost.

    It is loaded beside the other one, and only then put on one link after the other. If it does not
    load, the other one goes on. A program with other maps takes a restart of earshotd, which carries
    calls over; where earshotd does not run, its start does all of this.

    
    Examples:
      earshot datapath upgrade
    """
    with connected(socket_path) as daemon:
        done = daemon.upgrade()
    links = f"{done.links} link{'' if done.links == 1 else 's'}"
    click.echo(f"Program {done.program_id} runs on {links}.", err=True)


@group.command("remove", cls=Command)
@click.option("--yes", is_flag=True, help="Do not ask.")
@pin_path_option
def remove(yes: bool, pin_path: Path) -> None:
    """Detach the program and remove its maps: every call through this relay ends.

    Refused while earshotd runs. Stopping earshotd alone ends no call.

    \b
    Examples:
      earshot datapath remove
      earshot datapath remove --yes --pin-path /sys/fs/bpf/earshot-test
    """
    from control import loader

    found = pins.names(pin_path)
    try:
        loader.refuse_foreign(pin_path)
        with bpffs.locked(pin_path):
            flows = _live_flows(pin_path)
        if not yes:
            click.confirm(f"Detach from {_links(found)} and end {flows}?", abort=True, err=True)
        loader.remove(pin_path)
    except DatapathError as error:
        raise FailedError(str(error)) from error
    click.echo(f"Detached from {_links(found)}; {pin_path} is gone.", err=True)


def _links(found: list[str]) -> str:
    count = sum(name.startswith("link_") for name in found)
    return f"{count} link{'' if count == 1 else 's'}"


def _live_flows(pin_path: Path) -> str:
    try:
        with pinned_maps(pin_path) as datapath:
            count = int(np.count_nonzero(datapath.states() == abi.FlowState.LIVE))
    except DatapathError:
        return "all calls"  # maps of another version
    return f"{count} live flow{'' if count == 1 else 's'}"
