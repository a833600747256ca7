# SPDX-License-Identifier: Apache-2.0
"""Text of thousands of rows at a time: matrices of bytes, a row for each, NUL where nothing is.

A row of Python's own objects costs some ten microseconds; so made, it costs less than one, and half a million
of them take a second.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from control.addresses import from_bytes

Cells = NDArray[np.uint8]  # (rows, width)

_OCTETS = np.array([str(number).encode() for number in range(256)], "S3").view(np.uint8).reshape(256, 3)
_MAPPED = np.frombuffer(bytes(10) + b"\xff\xff", np.uint8)
_PLAIN = np.zeros(256, np.bool_)  # bytes that stand for themselves in JSON, and NUL
_PLAIN[[0, *range(0x20, 0x7F)]] = True
_PLAIN[list(b'"\\')] = False


def joined(parts: Sequence[Cells | bytes], rows: int) -> Cells:
    """Parts side by side; bytes are the same in each row."""
    columns = [
        np.broadcast_to(np.frombuffer(part, np.uint8), (rows, len(part))) if isinstance(part, bytes) else part
        for part in parts
    ]
    return np.concatenate(columns, axis=1)


def text_of(cells: Cells) -> bytes:
    """All rows, one after the other."""
    text: bytes = cells[cells != 0].tobytes()
    return text


def texts(values: Iterable[bytes]) -> Cells:
    """Texts without NULs."""
    made = np.array(list(values), np.bytes_)
    return made.view(np.uint8).reshape(len(made), -1)


def raw(values: NDArray[Any]) -> Cells:
    """Texts as the maps hold them."""
    made: Cells = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)
    used = np.flatnonzero(made.any(axis=0))
    return made[:, : int(used.max(initial=0)) + 1]


def decimal(values: NDArray[Any]) -> Cells:
    """Numbers, none below 0."""
    left = values.astype(np.uint64)
    digits: list[Cells] = []
    while True:
        upper = left // np.uint64(10)
        digit = (left - upper * np.uint64(10)).astype(np.uint8) + np.uint8(ord("0"))
        digits.append(np.where(left > 0, digit, 0).astype(np.uint8) if digits else digit)
        left = upper
        if not left.any():
            return np.stack(digits[::-1], axis=1)


def endpoints(addresses: NDArray[Any], ports: NDArray[Any]) -> Cells:
    """ADDRESS:PORT or [ADDRESS]:PORT, of addresses of 16 bytes."""
    octets = np.ascontiguousarray(addresses).view(np.uint8).reshape(len(addresses), 16)
    is_v4 = (octets[:, :12] == _MAPPED).all(axis=1)
    port = decimal(ports)
    parts: list[Cells | bytes] = []
    for place in range(12, 16):
        parts += [_OCTETS[octets[:, place]], b":" if place == 15 else b"."]
    made = joined([*parts, port], len(octets))
    if is_v4.all():
        return made
    others = np.flatnonzero(~is_v4)
    wide = texts(b"[%b]:" % _v6(octets[row].tobytes()) for row in others.tolist())
    wide = joined([wide, port[others]], len(others))
    both = np.zeros((len(octets), max(made.shape[1], wide.shape[1])), np.uint8)
    both[:, : made.shape[1]] = made
    both[others] = 0
    both[others, : wide.shape[1]] = wide
    return both


def _v6(address: bytes) -> bytes:
    # The C library writes addresses like ::1.2.3.4 otherwise than everything else here does.
    if not any(address[:8]):
        return str(from_bytes(address)).encode()
    return socket.inet_ntop(socket.AF_INET6, address).encode()


def quoted(cells: Cells) -> Cells:
    """As JSON has texts."""
    if not _PLAIN[cells].all():
        rows = (bytes(row[row != 0]).decode("utf-8", "replace") for row in cells)
        return texts(json.dumps(row).encode() for row in rows)
    return joined([b'"', cells, b'"'], len(cells))


def instead(cells: Cells, there: NDArray[np.bool_], other: bytes) -> Cells:
    """`other` where there is none."""
    if there.all():
        return cells
    made = np.zeros((len(cells), max(cells.shape[1], len(other))), np.uint8)
    made[:, : cells.shape[1]] = cells
    made[~there] = 0
    made[~there, : len(other)] = np.frombuffer(other, np.uint8)
    return made


def of_each(values: NDArray[Any], text: Callable[[Any], str]) -> Cells:
    """What a function makes of numbers; called once for each that occurs."""
    found, places = np.unique(values, return_inverse=True)
    return texts(text(value).encode() for value in found.tolist())[places]


def padded(cells: Cells, width: int, *, right: bool) -> Cells:
    """Filled up with spaces, before the text if it is to stand on the right."""
    there = cells != 0
    lengths = there.sum(axis=1)[:, None]
    columns = np.arange(width)
    made = np.full((len(cells), width), ord(" "), np.uint8)
    made[columns >= width - lengths if right else columns < lengths] = cells[there]
    return made


def width_of(cells: Cells) -> int:
    """Of the longest."""
    return int((cells != 0).sum(axis=1).max(initial=0))
