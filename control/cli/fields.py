# SPDX-License-Identifier: Apache-2.0
"""Lists of half a million rows, written some thousands at a time: fields are columns, not values."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import click
import numpy as np
from numpy.typing import NDArray

from control.cli import cells
from control.cli.cells import Cells
from control.cli.output import Column, Row, cell_of

Mask = NDArray[np.bool_]
Parts = Sequence[Cells | bytes]  # side by side; bytes are the same in each row

_PLAIN = Column("", "")


class Field(Protocol):
    """One key of some thousand rows."""

    def as_json(self) -> Parts: ...
    def as_text(self, column: Column) -> Parts: ...


class Numbers(NamedTuple):
    """Whole numbers, none below 0, or truths. `there`: of which rows it is known; None: of all."""

    values: NDArray[Any]
    there: Mask | None = None

    def as_json(self) -> Parts:
        if self.values.dtype == np.bool_:
            return [cells.of_each(self.values, json.dumps)]
        return [_or(cells.decimal(self.values), self.there, b"null")]

    def as_text(self, column: Column) -> Parts:
        if column.text is str:
            return [_or(cells.decimal(self.values), self.there, b"-")]
        return [_or(cells.of_each(self.values, column.text, right=column.right), self.there, b"-")]


class Texts(NamedTuple):
    """Texts. `there`, likewise."""

    cells: Cells
    there: Mask | None = None

    def as_json(self) -> Parts:
        parts = cells.quoted(self.cells)
        if self.there is None or self.there.all():
            return parts
        return [cells.instead(cells.joined(parts, len(self.cells)), self.there, b"null")]

    def as_text(self, column: Column) -> Parts:
        return [_or(self.cells, self.there, b"-")]


class Spelled(NamedTuple):
    """What stands for numbers, of which there are few: a name, a list of flags."""

    values: NDArray[Any]
    meaning: Callable[[Any], Any]

    def as_json(self) -> Parts:
        return [cells.of_each(self.values, lambda value: json.dumps(self.meaning(value)))]

    def as_text(self, column: Column) -> Parts:
        return [cells.of_each(self.values, lambda value: cell_of(self.meaning(value)))]


class Same(NamedTuple):
    """The same in every row."""

    value: str | None

    def as_json(self) -> Parts:
        return [json.dumps(self.value).encode()]

    def as_text(self, column: Column) -> Parts:
        return [cell_of(self.value).encode()]


class Lists(NamedTuple):
    """Lists of texts: the first of each row, the second, and so on."""

    texts: Sequence[Texts]

    def as_json(self) -> Parts:
        rows = len(self.texts[0].cells)
        quoted = [
            Texts(cells.joined(cells.quoted(one.cells), rows), one.there)  # where there is one
            for one in self.texts
        ]
        return [b"[", *_listed(quoted, rows, b", "), b"]"]

    def as_text(self, column: Column) -> Parts:
        rows = len(self.texts[0].cells)
        listed = cells.joined(_listed(self.texts, rows, b","), rows)
        return [_or(listed, np.asarray(listed.any(axis=1)), b"-")]


class Arrays(NamedTuple):
    """Elements, as many in each row, in one long column. `there`: those that count; None: all."""

    elements: Field
    rows: int
    length: int
    there: Mask | None = None

    def as_json(self) -> Parts:
        return self._listed(self.elements.as_json())

    def as_text(self, column: Column) -> Parts:
        return self._listed(self.elements.as_text(_PLAIN))

    def _listed(self, parts: Parts) -> Parts:
        made = cells.joined([b", ", *parts], self.rows * self.length)
        made = made.reshape(self.rows, self.length, made.shape[1])
        if self.there is None:
            made[:, 0, :2] = 0
        else:
            there = self.there.reshape(self.rows, self.length)
            made[~there] = 0
            made[..., :2][there.cumsum(axis=1) == 1] = 0
        return [b"[", made.reshape(self.rows, made.shape[1] * made.shape[2]), b"]"]


class Objects(NamedTuple):
    """Fields by name."""

    fields: Mapping[str, Field]

    def as_json(self) -> Parts:
        parts: list[Cells | bytes] = []
        for key, field in self.fields.items():
            parts += [f"{', ' if parts else ''}{json.dumps(key)}: ".encode(), *field.as_json()]
        return [b"{", *parts, b"}"]

    def as_text(self, column: Column) -> Parts:
        parts: list[Cells | bytes] = []
        for key, field in self.fields.items():
            parts += [f"{' ' if parts else ''}{key}=".encode(), *field.as_text(_PLAIN)]
        return parts


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
    parts = Objects(chunk).as_json()
    rows = _rows(parts)
    return cells.text_of(cells.joined([*parts, b",\n"], rows))[:-2] if rows else b""


def rows_of(chunks: Iterable[Chunk]) -> Iterator[Row]:
    """The same as Python's own objects, for where there are few."""
    for chunk in chunks:
        yield from json.loads(b"[" + json_of(chunk) + b"]")


def _write_table(chunks: Iterable[Chunk], columns: Sequence[Column]) -> bool:
    """Whether there were any rows. Widths are those of the chunk at hand, and never shrink."""
    widths = [len(column.title) for column in columns]
    head = True
    for chunk in chunks:
        parts = [chunk[column.key].as_text(column) for column in columns]
        rows = max(map(_rows, parts))
        if not rows:
            continue
        shown = [
            cells.packed(cells.joined(part, rows), right=column.right)
            for part, column in zip(parts, columns, strict=True)
        ]
        widths = [max(width, one.shape[1]) for width, one in zip(widths, shown, strict=True)]
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


def _listed(texts: Sequence[Texts], rows: int, comma: bytes) -> list[Cells | bytes]:
    """Texts that are there, with commas between."""
    parts: list[Cells | bytes] = []
    begun = np.zeros(rows, np.bool_)
    for text in texts:
        there = np.ones(rows, np.bool_) if text.there is None else text.there
        separator = np.zeros((rows, len(comma)), np.uint8)
        separator[begun & there] = np.frombuffer(comma, np.uint8)
        parts += [separator, _or(text.cells, there, b"")]
        begun = begun | there
    return parts


def _rows(parts: Parts) -> int:
    """How many they are of; 0 also where all is the same."""
    return next((len(part) for part in parts if not isinstance(part, bytes)), 0)


def _or(shown: Cells, there: Mask | None, other: bytes) -> Cells:
    return shown if there is None else cells.instead(shown, there, other)
