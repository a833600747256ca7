# SPDX-License-Identifier: Apache-2.0
"""The table of `earshot top`, for whatever width: what matters least is left out first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from control.cli.output import Row
from control.units import in_count, in_milliseconds, in_time

_GAP = 1


class TopColumn(NamedTuple):
    """A column.

    Attributes:
        text: makes a cell of a row.
        width: the least; a cell that is wider makes it wider.
        rank: the column with the largest one is left out first.
        order: of control/live_flows.py, that it shows; empty: none.
    """

    title: str
    text: Callable[[Row], str]
    width: int
    rank: int
    order: str = ""
    right: bool = True


def _of(key: str, text: Callable[[Any], str] = str) -> Callable[[Row], str]:
    return lambda row: "-" if row[key] is None else text(row[key])


def _pair(up: str, down: str, text: Callable[[Any], str]) -> Callable[[Row], str]:
    """Both ways in one cell; nothing is known of neither: a single dash."""

    def cell(row: Row) -> str:
        if row[up] is None and row[down] is None:
            return "-"
        return "/".join("-" if row[key] is None else text(row[key]) for key in (up, down))

    return cell


def _bits(bytes_per_second: float) -> str:
    return in_count(8 * bytes_per_second)


def _percent(ratio: float) -> str:
    return "0" if not ratio else f"{100 * ratio:.1f}" if ratio < 0.0995 else f"{100 * ratio:.0f}"


COLUMNS = (
    TopColumn("CLIENT", _of("client"), 20, 0, "client", right=False),
    TopColumn("UP/s", _of("to_transceiver_packets_per_second", in_count), 4, 1, "up"),
    TopColumn("DOWN/s", _of("to_client_packets_per_second", in_count), 6, 2, "down"),
    TopColumn("UP-b/s", _of("to_transceiver_bytes_per_second", _bits), 7, 7, "rate"),
    TopColumn("DOWN-b/s", _of("to_client_bytes_per_second", _bits), 8, 8, "rate"),
    TopColumn("LOSS%", _pair("to_transceiver_loss_ratio", "to_client_loss_ratio", _percent), 7, 3, "loss"),
    TopColumn(
        "JITTER",
        _pair("to_transceiver_jitter_milliseconds", "to_client_jitter_milliseconds", "{:.0f}".format),
        6,
        5,
        "jitter",
    ),
    TopColumn(
        "TRIP",
        _pair("client_trip_milliseconds", "transceiver_trip_milliseconds", "{:.0f}".format),
        5,
        6,
        "trip",
    ),
    TopColumn("AGE", _of("age_seconds", in_time), 6, 4, "age"),
    TopColumn("IDLE", _of("idle_milliseconds", in_milliseconds), 5, 9, "idle"),
    TopColumn("TRANSCEIVER", _of("transceiver"), 11, 10, "transceiver", right=False),
    TopColumn("SESSION", _of("session_id"), 8, 11, right=False),
    TopColumn("RELAY", _of("relay"), 16, 12, right=False),
    TopColumn("BACKEND", _of("backend"), 16, 13, right=False),
    TopColumn("VIP", _of("vip"), 16, 15, right=False),
    TopColumn("FLOW", _of("flow_id"), 14, 14, right=False),
)


def fitted(rows: Sequence[Row], width: int) -> list[tuple[TopColumn, int]]:
    """The columns that there is room for, and how wide each is. The first is always there."""
    widths = {
        column: max([column.width, len(column.title), *(len(column.text(row)) for row in rows)])
        for column in COLUMNS
    }
    left = width
    taken: set[TopColumn] = set()
    for column in sorted(COLUMNS, key=lambda column: column.rank):
        need = widths[column] + (_GAP if taken else 0)
        if taken and need > left:
            continue  # one that matters less may still be narrow enough
        taken.add(column)
        left -= need
    return [(column, widths[column]) for column in COLUMNS if column in taken]


def line(cells: Sequence[tuple[TopColumn, int, str]], width: int) -> str:
    """Cells side by side, neither longer nor shorter than the terminal is wide."""
    padded = (text.rjust(room) if column.right else text.ljust(room) for column, room, text in cells)
    return (" " * _GAP).join(padded)[:width].ljust(width)


def titles(columns: Sequence[tuple[TopColumn, int]], order: str, is_reversed: bool, width: int) -> str:
    """The head. What the rows are ordered by has a mark, where there is room for it."""
    mark = "^" if is_reversed else "v"
    cells = []
    for column, room in columns:
        marked = (
            f"{column.title}{mark}" if column.order == order and len(column.title) < room else column.title
        )
        cells.append((column, room, marked))
    return line(cells, width)


def row_line(columns: Sequence[tuple[TopColumn, int]], row: Row, width: int) -> str:
    return line([(column, room, column.text(row)) for column, room in columns], width)
