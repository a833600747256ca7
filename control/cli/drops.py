# SPDX-License-Identifier: Apache-2.0
"""`earshot drops`: which packets do not go on, how many of them, why, and what to do about it."""

from __future__ import annotations

import textwrap
import time
from pathlib import Path
from shutil import get_terminal_size
from typing import Any

import click

from control import reasons
from control.abi import Reason
from control.cli.counters import Counters, reading
from control.cli.options import Command, form_option, pin_path_option
from control.cli.output import Row, write_one
from control.reasons import EXPLAINED, label
from control.units import in_rate

LONGEST_INTERVAL = 3600.0
_INDENT = 4
_WIDTH = (60, 110)  # of the texts, whatever the terminal has


@click.command("drops", cls=Command)
@click.option(
    "--interval",
    type=click.FloatRange(0, LONGEST_INTERVAL),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to count for the rates; 0: totals alone.",
)
@click.option("--all", "everything", is_flag=True, help="Also the reasons that no packet was given.")
@form_option
@pin_path_option
def drops(interval: float, everything: bool, form: str, pin_path: Path) -> None:
    """Show why packets are dropped, with an explanation and the usual cure of each reason.

    The reasons that drop most now come first, then those that have dropped most since the maps were
    made. In JSON all reasons are there.

    \b
    Examples:
      earshot drops
      earshot drops --interval 10
      earshot drops -o json | jq '.reasons[] | select(.packets_per_second > 0) | .reason'
    """
    with reading(pin_path) as counters:
        first = counters.read()
        started = time.monotonic()
        if interval:
            time.sleep(interval)
            second, seconds = counters.read(), time.monotonic() - started
        else:
            second, seconds = first, 0.0
    report = _report(first, second, seconds)
    if form == "json":
        write_one(report, (), form)
    else:
        _write(report, everything)


def _report(first: Counters, second: Counters, seconds: float) -> Row:
    """What JSON shows; rates are null where there was no time to count them in."""
    rows: list[dict[str, Any]] = []
    for reason in Reason:
        if not reasons.is_loss(reason):
            continue
        packets, size = second[reason]
        before, size_before = first[reason]
        rows.append(
            {
                "reason": label(reason),
                "packets_per_second": round((packets - before) / seconds, 1) if seconds else None,
                "bytes_per_second": round((size - size_before) / seconds, 1) if seconds else None,
                "packets": packets,
                "bytes": size,
                "meaning": reasons.plain(EXPLAINED[reason].meaning),
                "cure": reasons.plain(EXPLAINED[reason].cure),
            }
        )
    rows.sort(key=lambda row: (-(row["packets_per_second"] or 0), -row["packets"]))
    packets = sum(row["packets"] for row in rows)
    before = sum(count for reason, (count, _) in first.items() if reasons.is_loss(reason))
    return {
        "interval_seconds": round(seconds, 3),
        "packets_per_second": round((packets - before) / seconds, 1) if seconds else None,
        "packets": packets,
        "reasons": rows,
    }


def _write(report: Row, everything: bool) -> None:
    rows = [row for row in report["reasons"] if everything or row["packets"]]
    if not rows:
        click.echo("Nothing has been dropped since the maps were made.", err=True)
        return
    width = min(max(get_terminal_size().columns, _WIDTH[0]), _WIDTH[1])
    indent = " " * _INDENT
    click.echo(f"{'REASON':34}{'NOW':>10}{'IN ALL':>14}")
    for row in rows:
        rate = row["packets_per_second"]
        click.echo(f"{row['reason']:34}{'-' if rate is None else in_rate(rate):>10}{row['packets']:>14}")
        for mark, text in (("", row["meaning"]), ("-> ", row["cure"])):
            if text:
                click.echo(
                    textwrap.fill(
                        text,
                        width,
                        initial_indent=indent + mark,
                        subsequent_indent=indent + " " * len(mark),
                        break_on_hyphens=False,
                    )
                )
