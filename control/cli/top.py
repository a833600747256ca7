# SPDX-License-Identifier: Apache-2.0
"""`earshot top`: the calls that are, and what they do just now."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from control.cli import top_table
from control.cli.options import Command, form_option, pin_path_option, pinned_maps
from control.cli.top_view import Mode, View
from control.live_flows import ORDERS

if TYPE_CHECKING:
    from control.cli.output import Row
    from control.cli.top_report import Observer
    from control.datapath import Datapath

_WIDE = 1000  # where no terminal says how wide it is


@click.command("top", cls=Command)
@click.option(
    "--interval",
    type=click.FloatRange(0.2, 3600),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two looks; rates are of that time.",
)
@click.option("-n", "--iterations", type=click.IntRange(1), metavar="N", help="End after so many looks.")
@click.option("--once", is_flag=True, help="The same as -n 1.")
@click.option("--sort", "order", type=click.Choice(list(ORDERS)), default="rate", show_default=True)
@click.option("--reverse", is_flag=True, help="The other way round.")
@click.option(
    "--filter",
    "wanted",
    default="",
    metavar="TEXT",
    help="Only calls of this client (address, address and port, or prefix), or with this in the session's "
    "id, a ufrag of it, or the transceiver's name.",
)
@click.option(
    "--limit",
    type=click.IntRange(0),
    default=20,
    show_default=True,
    metavar="N",
    help="How many calls are shown without a terminal.",
)
@form_option
@pin_path_option
def top(
    interval: float,
    iterations: int | None,
    once: bool,
    order: str,
    reverse: bool,
    wanted: str,
    limit: int,
    form: str,
    pin_path: Path,
) -> None:
    """Watch the calls: packets and bytes each way, loss, jitter, round trips, age.

    UP is from the client to the transceiver. LOSS, JITTER (ms) and TRIP (round trips, ms, of client and
    transceiver) are of both ways, up/down; "-" where nothing is measured. Above the calls: how full the
    relay is, what passes, and what is dropped. Keys order, filter and pause; ? shows them.

    \b
    Examples:
      earshot top
      earshot top --sort loss --filter voice-1
      earshot top -n 1 -o json | jq '.calls[] | select(.to_client_packets_per_second == 0) | .client'
    """
    from control.cli.top_report import Observer

    count = 1 if once else iterations
    view = View(order=order, is_reversed=reverse, wanted=wanted)
    with pinned_maps(pin_path) as datapath:
        observer = Observer(datapath, pin_path)
        if form == "json" or count or not (sys.stdin.isatty() and sys.stdout.isatty()):
            _print(observer, view, interval, count, limit, form)
        else:
            _watch(observer, datapath, pin_path, view, interval)


def _print(observer: Observer, view: View, interval: float, count: int | None, limit: int, form: str) -> None:
    """One report after the other, as lines."""
    done = 0
    while count is None or done < count:
        time.sleep(interval)
        report = observer.report(view.order, view.is_reversed, view.wanted, limit)
        if form == "json":
            click.echo(json.dumps(report, indent=2 if count == 1 else None))
        else:
            _print_table(report, view, first=not done)
        done += 1


def _print_table(report: Row, view: View, *, first: bool) -> None:
    from control.cli import top_screen

    if not first:
        click.echo()
    for line in top_screen.summary(report, view, _WIDE):
        click.echo(line.plain.rstrip())
    columns = top_table.fitted(report["calls"], _WIDE)
    click.echo(top_table.titles(columns, report["order"], report["reversed"], _WIDE).rstrip())
    for row in report["calls"]:
        click.echo(top_table.row_line(columns, row, _WIDE).rstrip())


def _watch(observer: Observer, datapath: Datapath, pin_path: Path, view: View, interval: float) -> None:
    """On the terminal, until somebody quits."""
    from rich.console import Console, Group
    from rich.live import Live

    from control.cli import top_screen
    from control.cli.flow_details import lines_of
    from control.cli.top_keys import keyboard

    console = Console(highlight=False)
    details: list[str] = []
    with (
        keyboard(sys.stdin.fileno()) as keys,
        Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live,
    ):
        interval_now = min(0.5, interval)  # something is there soon
        next_look = time.monotonic() + interval_now
        report: Row | None = None
        while not view.has_ended:
            width, height = console.size
            room = top_screen.page(height)
            if report is not None:
                live.update(Group(*top_screen.lines(report, view, details, width, height)), refresh=True)
            pressed = keys.wait(next_look - time.monotonic())
            for key in pressed:
                before = (view.order, view.is_reversed, view.wanted, view.skip, view.call)
                shown = report["calls"] if report else []
                place = view.cursor - view.skip
                chosen = shown[place]["flow_id"] if 0 <= place < len(shown) else None
                view.press(key, room, report["matching"] if report else 0, chosen)
                if before != (view.order, view.is_reversed, view.wanted, view.skip, view.call):
                    next_look = min(next_look, time.monotonic() + 0.2)  # a rate needs some time
            if time.monotonic() >= next_look or (report is None and not pressed):
                next_look = time.monotonic() + interval
                if view.is_paused and report is not None and view.mode is not Mode.CALL:
                    continue
                report = observer.report(view.order, view.is_reversed, view.wanted, room, view.skip)
                view.fit(room, report["matching"])
                if view.call is not None:
                    details = lines_of(datapath, pin_path, view.call, observer.sessions)
