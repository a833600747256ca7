# SPDX-License-Identifier: Apache-2.0
"""What an operator is told of tables that fill up."""

from __future__ import annotations

import logging

import pytest

from control.occupancy import Table, Watch


@pytest.fixture
def watch() -> Watch:
    return Watch()


def said(watch: Watch, caplog: pytest.LogCaptureFixture, *used: int) -> list[str]:
    """The events logged when a table of 100 has so many used, one after the other."""
    with caplog.at_level(logging.INFO, "control.occupancy"):
        for count in used:
            watch.look([Table("flows_ipv4", count, 100), Table("hops", 0, 100)])
    return [record.getMessage() for record in caplog.records]


def test_nothing_is_said_of_what_is_not_full(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    assert said(watch, caplog, 0, 69, 50, 69) == []


def test_it_is_said_once_each_way(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    assert said(watch, caplog, 70, 100, 61, 70, 60, 90, 59, 65, 69) == ["table_filling", "table_relieved"]


def test_the_line_says_which_and_how_full(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    said(watch, caplog, 85)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.__dict__["fields"] == {"table": "flows_ipv4", "used": 85, "capacity": 100, "percent": 85}


def test_an_empty_table_is_not_full() -> None:
    assert Table("flows_ipv6", 0, 0).ratio == 0.0
