# SPDX-License-Identifier: Apache-2.0
"""Lists of half a million rows, written some thousands at a time: fields are columns, not values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import click
import numpy as np
from numpy.typing import NDArray

from control.cli import cells
from control.cli.cells import Cells
from control.cli.output import Column

Mask = NDArray[np.bool_]


class Field(Protocol):
    """One key of some thousand rows."""

    def as_json(self) -> Cells: ...
    def as_text(self, column: Column) -> Cells: ...


class Numbers(NamedTuple):
    """Whole numbers, or truths. `there`: of which rows it is known; None: of all."""

    values: NDArray[Any]
    there: Mask | None = None

    def as_json(self) -> Cells:
        if self.values.dtype == np.bool_:
            return cells.of_each(self.values, json.dumps)
        return _or(cells.decimal(self.values), self.there, b"null")

    def as_text(self, column: Column) -> Cells:
        if column.text is str:
            return _or(cells.decimal(self.values), self.there, b"-")
        return _or(cells.of_each(self.values, column.text), self.there, b"-")


class Texts(NamedTuple):
    """Texts. `there`, likewise."""

    cells: Cells
    there: Mask | None = None

    def as_json(self) -> Cells:
        return _or(cells.quoted(self.cells), self.there, b"null")

    def as_text(self, column: Column) -> Cells:
        return _or(self.cells, self.there, b"-")


class Lists(NamedTuple):
    """Lists of texts: the first of each row, the second, and so on."""

    texts: Sequence[Texts]

    def as_json(self) -> Cells:
        return self._joined([Texts(cells.quoted(one.cells), one.there) for one in self.texts], b", ", b"[]")

    def as_text(self, column: Column) -> Cells:
        listed = self._joined(self.texts, b",", b"")
        return _or(listed, np.asarray(listed.any(axis=1)), b"-")

    def _joined(self, texts: Sequence[Texts], comma: bytes, around: bytes) -> Cells:
        rows = len(texts[0].cells)
        parts: list[Cells | bytes] = [around[:1]]
        begun = np.zeros(rows, np.bool_)
        for text in texts:
            there = np.ones(rows, np.bool_) if text.there is None else text.there
            separator = np.zeros((rows, len(comma)), np.uint8)
            separator[begun & there] = np.frombuffer(comma, np.uint8)
            parts += [separator, _or(text.cells, there, b"")]
            begun = begun | there
        return cells.joined([*parts, around[1:]], rows)


Chunk = Mapping[str, Field]


def write_list(chunks: Iterable[Chunk], columns: Sequence[Column], form: str, what: str) -> None:
    """Writes rows to stdout as control/cli/output.py does. That there are none is said on stderr."""
    if form == "json":
        separator = b"[\n"
        for chunk in chunks:
            if text := json_of(chunk):
                click.echo(separator + text, nl=False)
                separator = b",\n"
        click.echo("\n]" if separator == b",\n" else "[\n]")
    elif not _write_table(chunks, columns):
        click.echo(f"No {what}.", err=True)


def json_of(chunk: Chunk) -> bytes:
    """Objects, one on each line, with a comma after each but the last."""
    parts: list[Cells | bytes] = []
    for key, field in chunk.items():
        parts += [f"{', ' if parts else '{'}{json.dumps(key)}: ".encode(), field.as_json()]
    rows = next((len(part) for part in parts if not isinstance(part, bytes)), 0)
    return cells.text_of(cells.joined([*parts, b"},\n"], rows))[:-2] if rows else b""


def _write_table(chunks: Iterable[Chunk], columns: Sequence[Column]) -> bool:
    """Whether there were any rows. Widths are those of the chunk at hand, and never shrink."""
    widths = [len(column.title) for column in columns]
    head = True
    for chunk in chunks:
        shown = [chunk[column.key].as_text(column) for column in columns]
        rows = len(shown[0])
        if not rows:
            continue
        widths = [max(width, cells.width_of(one)) for width, one in zip(widths, shown, strict=True)]
        if head:
            titles = [cells.texts([column.title.encode()]) for column in columns]
            click.echo(_lines(titles, columns, widths), nl=False)
            head = False
        click.echo(_lines(shown, columns, widths), nl=False)
    return not head


def _lines(shown: Sequence[Cells], columns: Sequence[Column], widths: Sequence[int]) -> bytes:
    parts: list[Cells | bytes] = []
    for column, one, width in zip(columns, shown, widths, strict=True):
        is_last = column is columns[-1] and not column.right
        parts += [one if is_last else cells.padded(one, width, right=column.right), b"  "]
    parts[-1] = b"\n"
    return cells.text_of(cells.joined(parts, len(shown[0])))


def _or(shown: Cells, there: Mask | None, other: bytes) -> Cells:
    return shown if there is None else cells.instead(shown, there, other)
