# SPDX-License-Identifier: Apache-2.0
"""`earshot fleet`: the relays of the region, as this one has heard of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from control.cli.daemon_client import connected, socket_option
from control.cli.options import Command, form_option
from control.cli.output import Column, Row, joined, number, write_list, write_one
from control.units import in_time

if TYPE_CHECKING:
    from earshot.relay.v1 import admin_pb2 as pb

_DIRECTORY_COLUMNS = (
    Column("Directory", "directory", lambda one: f"{one['url']}, {_state(one)}"),
    Column("Delay", "directory", lambda one: f"{one['lag_ms']:g} ms until others hear"),
    Column("Not told yet", "directory", lambda one: f"{one['queued']} sessions"),
    Column("Refused", "directory", lambda one: _refused(one["refused"])),
)
_NO_DIRECTORY = (Column("Directory", "directory"),)
_RELAY_COLUMNS = (
    Column("RELAY", "relay"),
    Column("REGION", "region"),
    Column("STATE", "state"),
    number("HEARD", "heard_seconds", in_time),
    number("TRANSCEIVERS", "transceivers"),
    number("SESSIONS", "sessions"),
    number("PENDING", "pending"),
    Column("KEYS", "keys", joined),
    Column("VERSION", "version"),
)
_TRANSCEIVER_COLUMNS = (
    Column("TRANSCEIVER", "transceiver"),
    Column("REGION", "region"),
    Column("RELAY", "relay"),
    Column("STATE", "state"),
    number("SESSIONS", "sessions"),
)


@click.group("fleet")
def fleet() -> None:
    """The relays of the region, which share their sessions by a directory."""


@fleet.command("status", cls=Command)
@form_option
@socket_option
def status(form: str, socket_path: Path) -> None:
    """Show relays, transceivers, delays and keys, as this relay has heard of them.

    The first relay is this one, and the only one where there is no directory. KEYS: the fleet key that it
    seals with, then the others that it can open. PENDING: sessions of other relays that it could not enter. A
    transceiver is silent if the relay that it was attached to is not heard any more.

    \b
    Examples:
      earshot fleet status
      earshot fleet status -o json | jq '.relays[] | select(.state == "silent").relay'
    """
    with connected(socket_path) as daemon:
        found = daemon.fleet()
    relays = [_relay(one) for one in found.relays]
    transceivers = [_transceiver(one) for one in found.transceivers]
    directory = _directory(found.directory) if found.HasField("directory") else None
    row: Row = {"directory": directory, "relays": relays, "transceivers": transceivers}
    write_one(row, _DIRECTORY_COLUMNS if directory else _NO_DIRECTORY, form)
    if form == "json":
        return
    click.echo()
    write_list(relays, _RELAY_COLUMNS, form, "relays")
    click.echo()
    write_list(transceivers, _TRANSCEIVER_COLUMNS, form, "transceivers")


def _directory(found: pb.Directory) -> Row:
    return {
        "url": found.url,
        "up": found.up,
        "since_seconds": found.since_seconds,
        "lag_ms": found.lag_microseconds / 1000,
        "queued": found.queued,
        "refused": dict(found.refused),
        "name_disputed": found.name_disputed,
    }


def _relay(found: pb.FleetRelay) -> Row:
    states = {"silent": found.silent, "draining": found.draining, "joining": found.joining, "serving": True}
    state = next(name for name, is_so in states.items() if is_so)
    return {
        "relay": found.relay,
        "daemon": found.daemon or None,
        "this": found.is_this,
        "region": found.region or None,
        "state": state,
        "heard_seconds": found.heard_seconds,
        "transceivers": found.transceivers,
        "sessions": found.sessions,
        "pending": found.pending,
        "keys": sorted(found.keys, key=lambda key: key != found.key),
        "version": found.version,
    }


def _transceiver(found: pb.FleetTransceiver) -> Row:
    return {
        "transceiver": found.transceiver,
        "region": found.region or None,
        "relay": found.relay or None,
        "state": "attached" if found.attached else "detached" if found.relay else "silent",
        "sessions": found.sessions,
        "epoch": found.epoch,
        "silent_seconds": found.silent_seconds,
    }


def _state(directory: Row) -> str:
    return f"{'up' if directory['up'] else 'away'} for {in_time(directory['since_seconds'])}"


def _refused(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {why}" for why, count in sorted(counts.items())) or "nothing"
