# SPDX-License-Identifier: Apache-2.0
"""`earshot flow`."""

from __future__ import annotations

from pathlib import Path

import click

from control.cli import fields, flow_rows
from control.cli.completion import complete_flow, complete_session, complete_transceiver
from control.cli.flow_rows import Client
from control.cli.options import (
    Command,
    FailedError,
    form_option,
    now,
    pin_path_option,
    pinned_maps,
    shown_maps,
)
from control.cli.output import Column, number, write_one
from control.cli.session_table import SessionTable
from control.units import in_bytes, in_milliseconds, in_time

COLUMNS = (
    Column("FLOW", "flow_id"),
    Column("TRANSCEIVER", "transceiver"),
    Column("SESSION", "session_id"),
    Column("CLIENT", "client"),
    Column("VIP", "vip"),
    Column("RELAY", "relay"),
    Column("BACKEND", "backend"),
    number("UP-PKTS", "to_transceiver_packets"),
    number("UP-BYTES", "to_transceiver_bytes", in_bytes),
    number("DOWN-PKTS", "to_client_packets"),
    number("DOWN-BYTES", "to_client_bytes", in_bytes),
    number("AGE", "age_seconds", in_time),
    number("IDLE", "idle_milliseconds", in_milliseconds),
    Column("STATE", "state"),
)


def _parse_client(ctx: click.Context, param: click.Parameter, text: str | None) -> Client | None:
    try:
        return None if text is None else Client.parse(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not ADDR, ADDR:PORT or [ADDR]:PORT", ctx, param) from error


@click.group("flow")
def group() -> None:
    """Flows: client addresses that are bound to a session."""


@group.command("list", cls=Command)
@click.option(
    "--session",
    "session",
    metavar="UFRAG_OR_ID",
    shell_complete=complete_session,
    help="Only this session's.",
)
@click.option(
    "--transceiver", metavar="NAME", shell_complete=complete_transceiver, help="Only this transceiver's."
)
@click.option("--client", callback=_parse_client, metavar="ADDR[:PORT]", help="Only this client's.")
@form_option
@pin_path_option
def list_flows(
    session: str | None, transceiver: str | None, client: Client | None, form: str, pin_path: Path
) -> None:
    """List flows, the oldest first.

    UP is from the client to the transceiver. A flow is "live", "superseded" (its client's address
    belongs to a newer flow) or "dead" (it has ended, and its relay port rests before it is used again).

    \b
    Examples:
      earshot flow list
      earshot flow list --transceiver voice-1 --client 198.51.100.7
      earshot flow list -o json | jq '.[] | select(.idle_milliseconds > 30000) | .client'
    """
    with shown_maps(pin_path) as datapath:
        sessions = SessionTable(datapath)
        numbers = flow_rows.shown(datapath.flows)
        if session is not None:
            wanted = sessions.numbers[sessions.find(session)]
            numbers = flow_rows.of_sessions(datapath.flows, numbers, wanted)
        if transceiver is not None:
            wanted = sessions.numbers[sessions.of_transceiver(transceiver)]
            numbers = flow_rows.of_sessions(datapath.flows, numbers, wanted)
        if client is not None:
            numbers = flow_rows.of_client(datapath.flows, numbers, client)
        fields.write_list(flow_rows.chunks(datapath, numbers, sessions, now()), COLUMNS, form, "flows")


@group.command("show", cls=Command)
@click.argument("flow_id", type=click.IntRange(0, (1 << 64) - 1), shell_complete=complete_flow)
@form_option
@pin_path_option
def show_flow(flow_id: int, form: str, pin_path: Path) -> None:
    """Show everything that is known of one flow, by the id that `flow list` and earshotd's log give it.

    \b
    Examples:
      earshot flow show 1567421009944
      earshot flow show 1567421009944 -o json
    """
    from control.cli import flow_details  # as in pinned_maps()

    with pinned_maps(pin_path) as datapath:
        row = flow_details.details(datapath, pin_path, flow_id, SessionTable(datapath))
    if row is None:
        raise FailedError(f"there is no flow {flow_id}")
    if form == "json":
        write_one(row, (), form)
    else:
        click.echo("\n".join(flow_details.lines(row)))
