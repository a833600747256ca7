# SPDX-License-Identifier: Apache-2.0
"""`earshot stats`, `earshot transceiver`, `earshot vip`: the relay as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from control import abi, fdinfo
from control.cli.flow_rows import SHOWN_STATES
from control.cli.options import Command, form_option, now, pin_path_option, pinned_maps, shown_maps
from control.cli.output import Column, Row, number, write_list, write_one
from control.cli.session_table import SessionTable
from control.flows import in_state
from control.units import in_bytes, in_time

if TYPE_CHECKING:
    from control.datapath import Datapath

_USAGE_COLUMNS = (
    Column(
        "Flows", "flows", "{0[live]} of {0[capacity]} ({0[superseded]} superseded, {0[dead]} dead)".format
    ),
    Column("Sessions", "sessions"),
    Column("Ufrags", "ufrags", "{0[used]} of {0[capacity]}".format),
    Column("Transceivers", "transceivers", "{0[attached]} attached, {0[detached]} detached".format),
    Column("Memory", "memory", lambda memory: _memory_text(memory)),
)
_MAP_COLUMNS = (Column("MAP", "map"), number("ENTRIES", "entries"), number("MEMORY", "bytes", in_bytes))
_REASON_COLUMNS = (
    Column("REASON", "reason"),
    number("PACKETS", "packets"),
    number("BYTES", "bytes", in_bytes),
)
_TRANSCEIVER_COLUMNS = (
    Column("TRANSCEIVER", "transceiver"),
    Column("STATE", "attached", lambda attached: "attached" if attached else "detached"),
    number("SINCE", "since_seconds", in_time),
    number("SESSIONS", "sessions"),
    number("FLOWS", "flows"),
)
_VIP_COLUMNS = (Column("VIP", "vip"), number("FLOWS", "flows"))


@click.command("stats", cls=Command)
@click.option("--all", "everything", is_flag=True, help="Also the reasons that no packet was given.")
@form_option
@pin_path_option
def stats(everything: bool, form: str, pin_path: Path) -> None:
    """Show how full the relay is, what memory its maps take, and what became of packets.

    Packets are counted by reason since the maps were made; restarts of earshotd do not reset them. Bytes are
    those of IP packets. In JSON all reasons are there.

    \b
    Examples:
      earshot stats
      earshot stats -o json | jq .reasons.drop_unknown_ufrag.packets
    """
    from control import memory  # as in pinned_maps()

    with pinned_maps(pin_path) as datapath:
        usage = _usage(datapath)
        counters = datapath.reasons()
        taken = memory.usage(datapath.descriptors, datapath.layout.records)
    reasons = {
        reason.name.lower(): {
            "packets": int(counters["packets"][reason]),
            "bytes": int(counters["bytes"][reason]),
        }
        for reason in abi.Reason
    }
    if form == "json":
        write_one({**usage, "memory": taken, "reasons": reasons}, (), form)
        return
    write_one({**usage, "memory": taken}, _USAGE_COLUMNS, form)
    rows = [{"reason": name, **counts} for name, counts in reasons.items() if everything or counts["packets"]]
    click.echo()
    write_list(taken["maps"], _MAP_COLUMNS, form, "maps")
    click.echo()
    write_list(rows, _REASON_COLUMNS, form, "packets yet")


def _memory_text(memory: Row) -> str:
    return (
        f"{in_bytes(memory['bytes'])}: {memory['bytes_per_flow']} bytes for each flow that fits, "
        f"{memory['bytes_per_session']} for each ufrag"
    )


def _usage(datapath: Datapath) -> Row:
    sessions = SessionTable(datapath)
    states = datapath.states()
    attached = [bool(record["attached"]) for record in datapath.read_owners() if record["name"]]
    return {
        "flows": {
            **{state.name.lower(): int(np.count_nonzero(states == state)) for state in SHOWN_STATES},
            "capacity": datapath.capacity(),
        },
        "sessions": len(sessions.numbers),
        "ufrags": {
            "used": sessions.ufrags,
            "capacity": int(fdinfo.read(datapath.sessions.fd)["max_entries"]),
        },
        "transceivers": {"attached": sum(attached), "detached": len(attached) - sum(attached)},
    }


@click.group("transceiver")
def transceivers() -> None:
    """Transceivers: who registers sessions."""


@transceivers.command("list", cls=Command)
@form_option
@pin_path_option
def list_transceivers(form: str, pin_path: Path) -> None:
    """List transceivers.

    A detached one has lost its connection to earshotd: its sessions live on for the grace period.

    \b
    Examples:
      earshot transceiver list
      earshot transceiver list -o json
    """
    with shown_maps(pin_path) as datapath:
        sessions = SessionTable(datapath)
        rows = sessions.transceiver_rows(sessions.live_flows(datapath.flows), now())
        write_list(rows, _TRANSCEIVER_COLUMNS, form, "transceivers")


@click.group("vip")
def vips() -> None:
    """VIPs: the addresses that clients send to."""


@vips.command("list", cls=Command)
@form_option
@pin_path_option
def list_vips(form: str, pin_path: Path) -> None:
    """List VIPs, and how many live flows each has.

    \b
    Examples:
      earshot vip list
      earshot vip list -o json
    """
    with shown_maps(pin_path) as datapath:
        live = datapath.flows["vip"][in_state(datapath.flows["state"], abi.FlowState.LIVE)]
        flows = np.bincount(live, minlength=len(datapath.vips)).tolist()
        rows: list[Row] = [
            {"vip": str(vip), "flows": count} for vip, count in zip(datapath.vips, flows, strict=False)
        ]
        write_list(rows, _VIP_COLUMNS, form, "VIPs")
