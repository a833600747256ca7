# SPDX-License-Identifier: Apache-2.0
"""Addresses as matrices of text (control/cli/cells.py), from the bytes that the maps hold.

As Python's ipaddress writes them: of IPv6 the longest run of zero groups is left out (RFC 5952, 4.2), and no
address ends as IPv4 does.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from control.cli.cells import Cells, Words, decimal, joined

_MAPPED = np.frombuffer(bytes(10) + b"\xff\xff", np.uint8)
_GROUPS = 8  # of IPv6
_WORD = 4


def _words(texts: list[str]) -> Words:
    """A table of texts of at most four characters."""
    return np.frombuffer("".join(text.ljust(_WORD, "\0") for text in texts).encode(), np.uint32)


_DOTTED = _words([f"{octet}." for octet in range(256)])
_LAST_OCTET = _words([f"{octet}" for octet in range(256)])
_PAIRS = np.frombuffer("".join(f"{octet:02x}" for octet in range(256)).encode(), np.uint16)
_PAIRS_AND_COLON = _words([f"{octet:02x}:" for octet in range(256)])


@cache
def _hexadecimal() -> Words:
    """Groups of IPv6, which not every relay has."""
    return _words([f"{group:x}" for group in range(1 << 16)])


def endpoints(addresses: NDArray[Any], ports: NDArray[Any]) -> Cells:
    """ADDRESS:PORT or [ADDRESS]:PORT, of addresses of 16 bytes."""
    octets, is_v4 = _taken_apart(addresses)
    port = decimal(ports)
    if is_v4.all():
        return joined([_v4(octets), b":", port], len(octets))
    wide = np.flatnonzero(~is_v4)
    closed = joined([b"[", _v6(octets[wide]), b"]:", port[wide]], len(wide))
    return _merged(joined([_v4(octets), b":", port], len(octets)), wide, closed)


def addresses(values: NDArray[Any]) -> Cells:
    """Of 16 bytes each."""
    octets, is_v4 = _taken_apart(values)
    if is_v4.all():
        return _v4(octets)
    wide = np.flatnonzero(~is_v4)
    return _merged(_v4(octets), wide, _v6(octets[wide]))


def macs(values: NDArray[Any]) -> Cells:
    """Of 6 bytes each."""
    octets = np.ascontiguousarray(values).view(np.uint8).reshape(-1, 6)
    last = _PAIRS.take(octets[:, 5:]).view(np.uint8)
    return joined([_PAIRS_AND_COLON.take(octets[:, :5]).view(np.uint8), last], len(octets))


def hexadecimal(values: NDArray[Any]) -> Cells:
    """Any bytes."""
    octets = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), values.itemsize)
    return _PAIRS.take(octets).view(np.uint8)


def _taken_apart(values: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The bytes of addresses, and which are IPv4's."""
    octets = np.ascontiguousarray(values).view(np.uint8).reshape(-1, 16)
    # As words: three comparisons of a row instead of twelve.
    words = octets.view(np.uint32)
    mapped = _MAPPED.view(np.uint32)
    is_v4 = (words[:, 0] == mapped[0]) & (words[:, 1] == mapped[1]) & (words[:, 2] == mapped[2])
    return octets, is_v4


def _merged(narrow: Cells, places: NDArray[np.intp], wide: Cells) -> Cells:
    """Other rows in place of some."""
    made = np.zeros((len(narrow), max(narrow.shape[1], wide.shape[1])), np.uint8)
    made[:, : narrow.shape[1]] = narrow
    made[places] = 0
    made[places, : wide.shape[1]] = wide
    return made


def _v4(octets: NDArray[np.uint8]) -> Cells:
    made = np.empty((len(octets), 4), np.uint32)
    for place in range(3):
        made[:, place] = _DOTTED.take(octets[:, 12 + place])
    made[:, 3] = _LAST_OCTET.take(octets[:, 15])
    return made.view(np.uint8)


def _v6(octets: NDArray[np.uint8]) -> Cells:
    groups = octets.reshape(-1).view(">u2").reshape(-1, _GROUPS)
    # From each group on: how many in a row are zero.
    zeros = np.zeros((len(groups), _GROUPS + 1), np.int8)
    for place in range(_GROUPS - 1, -1, -1):
        zeros[:, place] = (zeros[:, place + 1] + 1) * (groups[:, place] == 0)
    first = zeros.argmax(axis=1)
    length = zeros[np.arange(len(groups)), first]
    first = np.where(length > 1, first, _GROUPS + 1)  # a single one is written
    end = first + length
    table = _hexadecimal()
    made = np.zeros((len(groups), _GROUPS, 2 + _WORD), np.uint8)
    for place in range(_GROUPS):
        left_out = (first <= place) & (place < end)
        begins = first == place
        text = table.take(groups[:, place])
        text[left_out] = 0
        made[:, place, 2:] = text[:, None].view(np.uint8)
        colon = ~left_out & (end != place) if place else np.zeros(len(groups), np.bool_)
        made[:, place, 0] = np.where(colon | begins, ord(":"), 0)
        made[:, place, 1] = np.where(begins, ord(":"), 0)
    return made.reshape(len(groups), -1)
