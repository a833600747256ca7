# SPDX-License-Identifier: Apache-2.0
"""The screen of `earshot top`, line by line: every line as wide as the terminal, as many as it has."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.text import Text

from control.cli import top_table
from control.cli.flow_details import INDENT
from control.cli.output import Row
from control.cli.top_view import HELP, Mode, View
from control.units import in_count

_HEAD = 4  # lines above the calls: three of the summary, and the titles
_FOOT = 1
_TITLE, _CHOSEN, _ALARM, _FAINT = "reverse", "bold reverse", "bold red", "dim"


def page(height: int) -> int:
    """Lines that there are for calls."""
    return max(1, height - _HEAD - _FOOT)


def lines(report: Row, view: View, details: Sequence[str], width: int, height: int) -> list[Text]:
    """The whole screen. `details`: lines about the call that is looked at."""
    shown = summary(report, view, width)
    room = max(0, height - len(shown) - _FOOT)
    if view.mode is Mode.CALL:
        body = [Text(part) for line in details for part in _wrapped(line, width)]
    elif view.mode is Mode.HELP:
        body = [Text(f"  {keys:10}{what}"[:width]) for keys, what in HELP]
    else:
        body = _calls(report, view, width)
    body = body[:room]
    blank = [Text("")] * (room - len(body))
    return [*shown, *body, *blank, _foot(view, width)]


def summary(report: Row, view: View, width: int) -> list[Text]:
    """Three lines about the relay as a whole."""
    flows, ufrags, transceivers = report["flows"], report["ufrags"], report["transceivers"]
    state = "PAUSED  " if view.is_paused else ""
    of_all = f"{report['matching']} of " if report["filter"] else ""
    first = (
        f"{state}earshot  calls {of_all}{flows['live']}  sessions {report['sessions']}  "
        f"transceivers {transceivers['attached']}"
        + (f" (+{transceivers['detached']} detached)" if transceivers["detached"] else "")
        + f"  flow table {100 * report['occupancy_ratio']:.1f}%"
        + f"  ufrags {100 * ufrags['used'] / max(1, ufrags['capacity']):.1f}%"
    )
    per_packet = report["nanoseconds_per_packet"]
    second = (
        f"up {in_count(report['to_transceiver_packets_per_second'])} pkt/s "
        f"{in_count(8 * report['to_transceiver_bytes_per_second'])}b/s  "
        f"down {in_count(report['to_client_packets_per_second'])} pkt/s "
        f"{in_count(8 * report['to_client_bytes_per_second'])}b/s"
        + (f"  {per_packet:.0f} ns/pkt" if per_packet is not None else "")
    )
    return [Text(first[:width]), Text(second[:width]), _drops(report["drops_per_second"], width)]


def _drops(rates: dict[str, float], width: int) -> Text:
    if not rates:
        return Text("drops none"[:width], _FAINT)
    told = "  ".join(f"{name.removeprefix('drop_')} {in_count(rate)}" for name, rate in rates.items())
    return Text(f"drops {in_count(sum(rates.values()))}/s: {told}"[:width], _ALARM)


def _calls(report: Row, view: View, width: int) -> list[Text]:
    rows = report["calls"]
    columns = top_table.fitted(rows, width)
    head = Text(top_table.titles(columns, report["order"], report["reversed"], width), _TITLE)
    body = [
        Text(top_table.row_line(columns, row, width), _CHOSEN if view.skip + place == view.cursor else "")
        for place, row in enumerate(rows)
    ]
    return [head, *body]


def _wrapped(line: str, width: int) -> list[str]:
    """What does not fit goes on under its beginning."""
    if width <= 2 * INDENT:
        return [line[:width]]
    return textwrap.wrap(line, width, subsequent_indent=" " * INDENT) or [""]


def _foot(view: View, width: int) -> Text:
    if view.mode is Mode.FILTER:
        return Text(f"filter: {view.typed}_"[-width:])
    if view.mode is Mode.CALL:
        told = "esc back  p pause  q quit"
    elif view.mode is Mode.HELP:
        told = "esc back  q quit"
    else:
        told = "? help  / filter  b u d l j t a i c x order  r turn  enter call  p pause  q quit"
        if view.wanted:
            told = f"filter {view.wanted!r} (esc: none)  " + told
    return Text(told[:width], _FAINT)
