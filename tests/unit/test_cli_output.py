# SPDX-License-Identifier: Apache-2.0
"""What rows look like to people and to programs."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from control.cli.output import Column, Row, joined, number, write_list, write_one
from control.units import in_bytes, in_milliseconds, in_rate, in_time

COLUMNS = (Column("NAME", "name"), number("SIZE", "size", in_bytes))


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (102_348, "99.9 KiB"),
        (102_400, "100 KiB"),
        (1023 * 1024, "1.0 MiB"),
        (5 * 1024**3, "5.0 GiB"),
        ((1 << 64) - 1, "16.0 EiB"),
    ],
)
def test_bytes(count: int, text: str) -> None:
    assert in_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (59, "59s"),
        (60, "1m00s"),
        (723, "12m03s"),
        (3599, "59m59s"),
        (18000, "5h00m"),
        (86400 * 3 + 7 * 3600 + 59, "3d07h"),
    ],
)
def test_times(seconds: int, text: str) -> None:
    assert in_time(seconds) == text


@pytest.mark.parametrize(
    ("milliseconds", "text"), [(0, "0.0s"), (340, "0.3s"), (9949, "9.9s"), (9950, "10s"), (61_400, "1m01s")]
)
def test_milliseconds(milliseconds: int, text: str) -> None:
    assert in_milliseconds(milliseconds) == text


@pytest.mark.parametrize(
    ("per_second", "text"),
    [
        (0, "0/s"),
        (0.3, "0.3/s"),
        (9.94, "9.9/s"),
        (17.2, "17/s"),
        (999.4, "999/s"),
        (1_234, "1.2k/s"),
        (52_300, "52k/s"),
        (3_400_000, "3.4M/s"),
        (5e12, "5000G/s"),
    ],
)
def test_rates(per_second: float, text: str) -> None:
    assert in_rate(per_second) == text


def test_a_table_is_aligned_and_has_no_trailing_blanks(capsys: pytest.CaptureFixture[str]) -> None:
    write_list([{"name": "short", "size": 5}, {"name": "a longer one", "size": None}], COLUMNS, "table", "x")
    assert capsys.readouterr().out.splitlines() == [
        "NAME          SIZE",
        "short          5 B",
        "a longer one     -",
    ]


def test_a_wider_row_further_down_shifts_only_what_follows(capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[Row] = [{"name": "a", "size": 1}] * 1000 + [{"name": "wide one", "size": 1}]
    write_list(rows, COLUMNS, "table", "x")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1002
    assert lines[1] == "a      1 B"
    assert lines[-1] == "wide one   1 B"


def test_that_there_is_nothing_is_said_beside_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    write_list([], COLUMNS, "table", "flows")
    assert capsys.readouterr() == ("", "No flows.\n")


@pytest.mark.parametrize("count", [0, 1, 2, 1000, 2001])
def test_a_json_list_is_one_document_with_a_row_on_each_line(
    capsys: pytest.CaptureFixture[str], count: int
) -> None:
    rows = [{"name": str(index), "size": index} for index in range(count)]
    write_list(iter(rows), COLUMNS, "json", "x")
    said = capsys.readouterr()
    assert json.loads(said.out) == rows
    assert len([line for line in said.out.splitlines() if "{" in line]) == count
    assert said.err == ""


def test_rows_are_written_as_they_are_made(capsys: pytest.CaptureFixture[str]) -> None:
    def failing() -> Iterator[Row]:
        yield from [{"name": "x", "size": 1}] * 1000
        raise RuntimeError("later")

    with pytest.raises(RuntimeError, match="later"):
        write_list(failing(), COLUMNS, "table", "x")
    assert capsys.readouterr().out.count("x ") == 1000


def test_one_row(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"name": ["a", "b"], "size": 2048}
    columns = (Column("NAME", "name", joined), COLUMNS[1])
    write_one(row, columns, "table")
    assert capsys.readouterr().out == "NAME  a,b\nSIZE  2.0 KiB\n"
    write_one(row, columns, "json")
    assert json.loads(capsys.readouterr().out) == row


def test_an_empty_list_in_a_cell() -> None:
    assert joined([]) == "-"
