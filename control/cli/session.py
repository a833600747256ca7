# SPDX-License-Identifier: Apache-2.0
"""`earshot session`."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from control.cli import fields, flow_rows
from control.cli.completion import complete_session, complete_transceiver
from control.cli.flow import COLUMNS as FLOW_COLUMNS
from control.cli.options import Command, FailedError, form_option, now, pin_path_option, shown_maps
from control.cli.output import Column, joined, number, write_list, write_one
from control.cli.session_table import SessionTable
from control.units import in_time

COLUMNS = (
    Column("SESSION", "session_id"),
    Column("TRANSCEIVER", "transceiver"),
    Column("UFRAGS", "ufrags", joined),
    Column("ENDPOINTS", "endpoints", joined),
    number("FLOWS", "flows"),
    number("TTL", "ttl_seconds", in_time),
    Column("PWD", "has_pwd", lambda has: "known" if has else "unknown"),
)


@click.group("session")
def group() -> None:
    """Sessions: what transceivers have registered."""


@group.command("list", cls=Command)
@click.option(
    "--transceiver", metavar="NAME", shell_complete=complete_transceiver, help="Only this transceiver's."
)
@form_option
@pin_path_option
def list_sessions(transceiver: str | None, form: str, pin_path: Path) -> None:
    """List sessions.

    TTL is what is left of a session's time to live; "-" if it lives as long as its transceiver is
    attached. PWD tells whether the relay can check who sends a request; the pwd itself is nowhere.

    \b
    Examples:
      earshot session list
      earshot session list --transceiver voice-1 -o json
    """
    with shown_maps(pin_path) as datapath:
        sessions = SessionTable(datapath)
        positions = sessions.all() if transceiver is None else sessions.of_transceiver(transceiver)
        chunks = sessions.chunks(positions, sessions.live_flows(datapath.flows), now())
        fields.write_list(chunks, COLUMNS, form, "sessions")


@group.command("show", cls=Command)
@click.argument("ufrag_or_id", shell_complete=complete_session)
@click.option(
    "--transceiver",
    metavar="NAME",
    shell_complete=complete_transceiver,
    help="Only this transceiver's: two may use the same id.",
)
@form_option
@pin_path_option
def show_session(ufrag_or_id: str, transceiver: str | None, form: str, pin_path: Path) -> None:
    """Show one session and its flows, by one of its ufrags or by its transceiver's id for it.

    \b
    Examples:
      earshot session show Xk3f
      earshot session show call-17 --transceiver voice-1 -o json
    """
    with shown_maps(pin_path) as datapath:
        sessions = SessionTable(datapath)
        positions = sessions.find(ufrag_or_id)
        if transceiver is not None:
            positions = np.intersect1d(positions, sessions.of_transceiver(transceiver))
        if not len(positions):
            raise FailedError(f"there is no session with the ufrag or id {ufrag_or_id!r}")
        if len(positions) > 1:
            raise FailedError(
                f"{len(positions)} sessions match {ufrag_or_id!r}: add --transceiver, or give a ufrag"
            )
        live = sessions.live_flows(datapath.flows)
        row = next(sessions.rows(positions, live, now()))
        numbers = flow_rows.of_sessions(
            datapath.flows, flow_rows.shown(datapath.flows), sessions.numbers[positions]
        )
        flows = list(flow_rows.rows(datapath, numbers, sessions, now()))
    if form == "json":
        write_one({**row, "bound_flows": flows}, (), form)
        return
    write_one(row, COLUMNS, form)
    if flows:
        click.echo()
        write_list(flows, FLOW_COLUMNS, form, "flows")
