# SPDX-License-Identifier: Apache-2.0
"""Text of thousands of rows at a time: matrices of bytes, a row for each, NUL where nothing is.

A row of Python's own objects costs some ten microseconds; so made, it costs less than one, and half a million
of them take a second. What is looked up comes in pieces of four bytes, which numpy moves as one word.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Cells = NDArray[np.uint8]  # (rows, width)
Words = NDArray[np.uint32]  # each four characters in a row

_GROUP = 10_000  # decimal digits come four at a time
_SPACE = ord(" ")


# ---- putting together --------------------------------------------------------------------


def joined(parts: Sequence[Cells | bytes], rows: int) -> Cells:
    """Parts side by side; bytes are the same in each row."""
    if len(parts) == 1 and not isinstance(parts[0], bytes):
        return parts[0]
    pattern = b"".join(part if isinstance(part, bytes) else bytes(part.shape[1]) for part in parts)
    made = np.empty((rows, len(pattern)), np.uint8)
    made[:] = np.frombuffer(pattern, np.uint8)
    start = 0
    for part in parts:
        if isinstance(part, bytes):
            start += len(part)
        else:
            made[:, start : start + part.shape[1]] = part
            start += part.shape[1]
    return made


def text_of(cells: Cells) -> bytes:
    """All rows, one after the other."""
    return cells.tobytes().translate(None, b"\0")


def instead(cells: Cells, there: NDArray[np.bool_], other: bytes) -> Cells:
    """`other` where there is none."""
    if there.all():
        return cells
    made = np.zeros((len(cells), max(cells.shape[1], len(other))), np.uint8)
    made[:, : cells.shape[1]] = cells
    made[~there] = 0
    made[~there, : len(other)] = np.frombuffer(other, np.uint8)
    return made


# ---- texts -------------------------------------------------------------------------------


def texts(values: Iterable[bytes]) -> Cells:
    """Texts without NULs."""
    made = np.array(list(values), np.bytes_)
    return made.view(np.uint8).reshape(len(made), made.itemsize)


def raw(values: NDArray[Any]) -> Cells:
    """Texts as the maps hold them."""
    made: Cells = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), values.itemsize)
    return made[:, : _used(made)]


def of_each(values: NDArray[Any], text: Callable[[Any], str], *, right: bool = False) -> Cells:
    """What a function makes of numbers; called once for each that occurs. `right`: on the right."""
    found, places = np.unique(values, return_inverse=True)
    made = texts(text(value).encode() for value in found.tolist())
    return (packed(made, right=True) if right else made)[places]


def quoted(cells: Cells) -> list[Cells | bytes]:
    """As JSON has texts."""
    if _is_plain(cells):
        return [b'"', cells, b'"']
    rows = (bytes(row[row != 0]).decode("utf-8", "replace") for row in cells)
    return [texts(json.dumps(row).encode() for row in rows)]


def _is_plain(cells: Cells) -> bool:
    """Whether all bytes stand for themselves in JSON. NUL, which is nothing, becomes the largest here."""
    below = cells - np.uint8(1)
    special = (cells == ord('"')) | (cells == ord("\\")) | (below < np.uint8(0x1F))
    return not (special.any() or (cells > np.uint8(0x7E)).any())


# ---- numbers -----------------------------------------------------------------------------


@cache
def _groups() -> Words:
    """Four digits: as they begin a number, as they go on with one, and none."""
    begin = [f"{number}".rjust(4, "\0") for number in range(_GROUP)]
    on = [f"{number:04}" for number in range(_GROUP)]
    return np.frombuffer("".join([*begin, *on, "\0" * 4]).encode(), np.uint32)


def decimal(values: NDArray[Any]) -> Cells:
    """Numbers, none below 0, on the right."""
    most = int(values.max(initial=0))
    left: NDArray[Any] = values.astype(np.uint32 if most < 1 << 32 else np.uint64)
    table = _groups()
    groups: list[Words] = []
    while not groups or most:
        upper = left // _GROUP
        place = left - upper * _GROUP
        place += (upper != 0) * left.dtype.type(_GROUP)
        if groups:
            place[left == 0] = 2 * _GROUP
        groups.append(table.take(place))
        left, most = upper, most // _GROUP
    made = np.stack(groups[::-1], axis=1).view(np.uint8)
    unused = int((made != 0).any(axis=0).argmax())
    return made[:, unused:]


# ---- tables for people -------------------------------------------------------------------


def packed(cells: Cells, *, right: bool) -> Cells:
    """Each row without gaps, all on one side, and no wider than the longest."""
    there = cells != 0
    gaps = there[:, :-1] & ~there[:, 1:] if right else there[:, 1:] & ~there[:, :-1]
    if not gaps.any():
        used = there.any(axis=0)
        return cells[:, int(used.argmax()) :] if right and used.any() else cells[:, : _used(cells)]
    lengths = there.sum(axis=1)[:, None]
    width = int(lengths.max())
    columns = np.arange(width)
    made = np.zeros((len(cells), width), np.uint8)
    made[columns >= width - lengths if right else columns < lengths] = cells[there]
    return made


def padded(cells: Cells, width: int, *, right: bool) -> Cells:
    """What packed() has made, filled up with spaces."""
    made = np.full((len(cells), width), _SPACE, np.uint8)
    part = made[:, width - cells.shape[1] :] if right else made[:, : cells.shape[1]]
    np.copyto(part, cells, where=cells != 0)
    return made


def _used(cells: Cells) -> int:
    """Columns up to the last in which something is; one at least."""
    used = np.flatnonzero(cells.any(axis=0))
    return int(used.max(initial=0)) + 1
