# SPDX-License-Identifier: Apache-2.0
"""Lists of many rows say what they would say row by row, and hold some thousands of them at a time."""

from __future__ import annotations

import json
import tracemalloc
from ipaddress import ip_address
from typing import Any

import click
import numpy as np
import pytest

from control.addresses import format_endpoint, to_bytes
from control.cli import address_cells, cells, fields, flow_rows
from control.cli.fields import Lists, Numbers, Texts
from control.cli.flow import COLUMNS
from control.cli.output import Column, number
from control.cli.session_table import SessionTable
from control.layout import Layout
from tests.unit.test_cli_rows import NOW, Maps

ADDRESSES = (
    "0.0.0.0",
    "10.20.30.40",
    "255.255.255.255",
    "::",
    "::1",
    "::102:304",
    "2001:db8::7",
    "fe80:0:1::",
)


def lines_of(made: cells.Cells) -> list[str]:
    return [bytes(row[row != 0]).decode() for row in made]


def test_endpoints() -> None:
    raw = np.array([to_bytes(ip_address(address)) for address in ADDRESSES], "V16")
    ports = np.arange(len(raw), dtype=np.uint16) * 9000
    told = [format_endpoint(ip_address(a), port) for a, port in zip(ADDRESSES, ports.tolist(), strict=True)]
    assert lines_of(address_cells.endpoints(raw, ports)) == told
    assert lines_of(address_cells.endpoints(raw[:3], ports[:3])) == told[:3]


@pytest.mark.parametrize("values", [[0], [0, 9, 10, 99, 100], [7, 1 << 32, (1 << 64) - 1]], ids=str)
def test_numbers(values: list[int]) -> None:
    assert lines_of(cells.decimal(np.array(values, np.uint64))) == list(map(str, values))


@pytest.mark.parametrize("text", ["", "call-7", 'a"b', "back\\slash", "tab\t", "\x7f", "\u00e9"], ids=repr)
def test_texts_are_quoted_as_json_has_them(text: str) -> None:
    [shown] = lines_of(cells.joined(cells.quoted(cells.texts([text.encode()])), 1))
    assert json.loads(shown) == text


CHUNK = {
    "name": Texts(cells.texts([b"a", b"bcd", b"e"]), np.array([True, True, False])),
    "count": Numbers(np.array([5, 0, 12345]), np.array([True, False, True])),
    "is": Numbers(np.array([True, False, True])),
    "all": Lists(
        [
            Texts(cells.texts([b"x", b"y", b"z"]), np.array([True, False, False])),
            Texts(cells.texts([b"1", b"2", b"3"]), np.array([True, True, False])),
        ]
    ),
}
ROWS = [
    {"name": "a", "count": 5, "is": True, "all": ["x", "1"]},
    {"name": "bcd", "count": None, "is": False, "all": ["2"]},
    {"name": None, "count": 12345, "is": True, "all": []},
]
SHOWN = (
    Column("N", "name"),
    number("COUNT", "count"),
    Column("ALL", "all"),
    Column("IS", "is", "={}".format),
)


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    fields.write_list([CHUNK, CHUNK], SHOWN, "json", "rows")
    assert json.loads(capsys.readouterr().out) == [*ROWS, *ROWS]
    fields.write_list([], SHOWN, "json", "rows")
    assert json.loads(capsys.readouterr().out) == []


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    fields.write_list([CHUNK], SHOWN, "table", "rows")
    assert capsys.readouterr().out.splitlines() == [
        "N    COUNT  ALL  IS",
        "a        5  x,1  =True",
        "bcd      -  2    =False",
        "-    12345  -    =True",
    ]
    fields.write_list([], SHOWN, "table", "rows")
    assert capsys.readouterr() == ("", "No rows.\n")


@pytest.mark.parametrize("form", ["json", "table"])
def test_memory_does_not_grow_with_the_rows(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = Maps()
    one = maps.flows[3:4]
    peaks = []
    written: list[int] = []

    def take(text: Any = "", *, nl: bool = True) -> None:
        written.append(text.count(b"198.51.100.7:40000") if isinstance(text, bytes) else 0)

    monkeypatch.setattr(click, "echo", take)
    for count in (20_000, 200_000):
        maps.flows, maps.layout = np.repeat(one, count), Layout(1, count, 1)
        numbers, table = flow_rows.shown(maps.flows), SessionTable(maps)
        tracemalloc.start()
        fields.write_list(flow_rows.chunks(maps, numbers, table, NOW), COLUMNS, form, "flows")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert sum(written) == count
        written.clear()
    assert peaks[1] < 1.2 * peaks[0] < 32 << 20, peaks
