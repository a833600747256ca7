# SPDX-License-Identifier: Apache-2.0
"""Rows as an aligned table for people or as JSON for programs.

A row is a dict of what JSON shows: its keys are the CLI's API (docs/cli.md). Lists are written as
they are made, so that half a million rows need no more memory than a thousand.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import click

Row = dict[str, Any]
_BLOCK = 1000


class Column(NamedTuple):
    """A column of a table. `text` makes a cell of row[key]; None is never given to it."""

    title: str
    key: str
    text: Callable[[Any], str] = str
    right: bool = False

    def cell(self, row: Row) -> str:
        value = row[self.key]
        return "-" if value is None else self.text(value)


def number(title: str, key: str, text: Callable[[Any], str] = str) -> Column:
    """A column of quantities, aligned to the right."""
    return Column(title, key, text, right=True)


def joined(values: Sequence[object]) -> str:
    """The text of a list in a cell."""
    return ",".join(map(str, values)) or "-"


def cell_of(value: Any) -> str:
    """Anything in a cell, or behind its name: fields as name=value."""
    if isinstance(value, dict):
        return " ".join(f"{name}={cell_of(one)}" for name, one in value.items())
    if isinstance(value, list):
        return "[" + ", ".join(map(cell_of, value)) + "]"
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value)


def write_list(rows: Iterable[Row], columns: Sequence[Column], form: str, what: str) -> None:
    """Writes rows to stdout. That there are none is said on stderr, where people look."""
    if form == "json":
        _write_json_list(rows)
        return
    if not _write_table(rows, columns):
        click.echo(f"No {what}.", err=True)


def write_one(row: Row, columns: Sequence[Column], form: str) -> None:
    """Writes one row: a JSON object, or a line for each column."""
    if form == "json":
        click.echo(json.dumps(row, indent=2))
        return
    width = max(len(column.title) for column in columns) + 2
    click.echo("\n".join(f"{column.title:{width}}{column.cell(row)}" for column in columns))


def _write_json_list(rows: Iterable[Row]) -> None:
    # A row on each line: one array to a parser, and still something for grep.
    separator = "\n"
    click.echo("[", nl=False)
    for block in _blocks(rows):
        click.echo(separator + ",\n".join(map(json.dumps, block)), nl=False)
        separator = ",\n"
    click.echo("\n]")


def _write_table(rows: Iterable[Row], columns: Sequence[Column]) -> bool:
    """Whether there were any rows. Widths are those of the block at hand, and never shrink."""
    widths = [len(column.title) for column in columns]
    titles: list[list[str]] = [[column.title for column in columns]]
    for block in _blocks(rows):
        cells = titles + [[column.cell(row) for column in columns] for row in block]
        widths = [
            max(width, *map(len, column))
            for width, column in zip(widths, zip(*cells, strict=True), strict=True)
        ]
        click.echo("\n".join(_line(line, columns, widths) for line in cells))
        titles = []
    return not titles


def _line(cells: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> str:
    padded = (
        cell.rjust(width) if column.right else cell.ljust(width)
        for cell, column, width in zip(cells, columns, widths, strict=True)
    )
    return "  ".join(padded).rstrip()


def _blocks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    remaining = iter(rows)
    while block := list(islice(remaining, _BLOCK)):
        yield block
