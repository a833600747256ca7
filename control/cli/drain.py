# SPDX-License-Identifier: Apache-2.0
"""`earshot drain` and `earshot undrain`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from control.cli.daemon_client import Daemon, connected, socket_option
from control.cli.options import Command, FailedError

POLL_SECONDS = 1.0


@click.command("drain", cls=Command)
@click.option(
    "--deadline",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Give up waiting after so long, with status 1; nothing is ended.  [default: wait until it is empty]",
)
@click.option(
    "--handover",
    is_flag=True,
    help="Hand all calls over to the other relays of the group (group_takeover), and do not wait.",
)
@socket_option
def drain(deadline: float | None, handover: bool, socket_path: Path) -> None:
    """Take no new sessions, and wait until the last one has ended.

    Calls live on: they are renewed, restart their ICE and change their address as ever. Health says
    NOT_SERVING. The relay stays so, across restarts of earshotd, until `earshot undrain`. Interrupting
    this command, or its deadline, changes nothing about that.

    \b
    Examples:
      earshot drain
      earshot drain --deadline 3600 && systemctl stop earshotd
      earshot drain --deadline 0        do not wait
      earshot drain --handover && systemctl stop earshotd
    """
    with connected(socket_path) as daemon:
        relays = daemon.drain(handover)
        if handover:
            click.echo(f"Handed over: all calls are with {', '.join(relays)}.", err=True)
            return
        left = _wait(daemon, deadline)
    if left:
        raise FailedError(f"draining, with {left} left")
    click.echo("Drained: no session is left.", err=True)


@click.command("undrain", cls=Command)
@socket_option
def undrain(socket_path: Path) -> None:
    """Take new sessions again.

    \b
    Examples:
      earshot undrain
    """
    with connected(socket_path) as daemon:
        daemon.undrain()
    click.echo("New sessions are taken again.", err=True)


def _wait(daemon: Daemon, deadline: float | None) -> str:
    """What is left when it is empty (nothing) or the deadline is over."""
    started = time.monotonic()
    said = ""
    while True:
        state = daemon.drain_state()
        if not state.draining:
            raise FailedError("somebody has ended the draining (earshot undrain)")
        if not state.sessions and not state.flows:
            return ""
        left = f"{_count(state.sessions, 'session')} and {_count(state.flows, 'flow')}"
        if deadline is not None and time.monotonic() - started >= deadline:
            return left
        if left != said:
            click.echo(f"{left} left", err=True)
            said = left
        time.sleep(POLL_SECONDS)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
