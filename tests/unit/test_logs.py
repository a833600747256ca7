# SPDX-License-Identifier: Apache-2.0
"""One line an event, whatever is in it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from control.logs import KeyValueFormatter, event
from telemetry.rate_limit import RateLimit
from transceiver import log as transceiver_log

LOG = logging.getLogger("test")


def line(caplog: pytest.LogCaptureFixture) -> str:
    (record,) = caplog.records
    formatted = KeyValueFormatter().format(record)
    assert "\n" not in formatted
    assert formatted.startswith("time=")
    return formatted.split(" ", 1)[1]


def test_event(caplog: pytest.LogCaptureFixture) -> None:
    event(LOG, logging.WARNING, "ready", vips="[::1]:1", text='two words and "quotes"\n', empty="")
    assert (
        line(caplog) == r'level=warning event=ready vips=[::1]:1 text="two words and \"quotes\"\n" empty=""'
    )


def test_event_written_by_hand(caplog: pytest.LogCaptureFixture) -> None:
    LOG.error("event=next_hop_changed towards=%s", "10.0.0.1")
    assert line(caplog) == "level=error event=next_hop_changed towards=10.0.0.1"


def test_a_library(caplog: pytest.LogCaptureFixture) -> None:
    LOG.error("it\nbroke")
    assert line(caplog) == r'level=error event=log logger=test message="it\nbroke"'


def test_traceback(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError("no")
    except ValueError:
        event(LOG, logging.ERROR, "call_failed", exc_info=True)
    assert r'event=call_failed traceback="Traceback (most recent call last):\n' in line(caplog)


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, str], logging.LogRecord | None]:
    """Logs an event at a time; the record as it leaves the filter, if it does."""
    limit = RateLimit(lines=3, seconds=10)
    now = [0.0]
    monkeypatch.setattr("telemetry.rate_limit.time.monotonic", lambda: now[0])

    def log(at: float, name: str) -> logging.LogRecord | None:
        now[0] = at
        record = logging.makeLogRecord({"msg": name, "fields": {"key": "value"}})
        return record if limit.filter(record) else None

    return log


def test_an_event_that_comes_all_the_time_is_cut_short(
    limited: Callable[[float, str], logging.LogRecord | None],
) -> None:
    assert [limited(1 + tenth / 10, "often") is not None for tenth in range(5)] == [True] * 3 + [False] * 2
    assert limited(2, "rare") is not None
    after = limited(12, "often")
    assert after is not None
    assert after.__dict__["fields"] == {"key": "value", "suppressed": 2}
    again = limited(12.5, "often")
    assert again is not None
    assert again.__dict__["fields"] == {"key": "value"}


def test_libraries_are_not_limited() -> None:
    limit = RateLimit(lines=0)
    assert limit.filter(logging.makeLogRecord({"msg": "a library's"}))


def transceiver_line(caplog: pytest.LogCaptureFixture) -> str:
    (record,) = caplog.records
    formatted = transceiver_log.LineFormatter(".3").format(record)
    assert "\n" not in formatted
    assert formatted.startswith("time=")
    return formatted.split(" ", 1)[1]


def test_a_transceivers_event(caplog: pytest.LogCaptureFixture) -> None:
    transceiver_log.event(logging.WARNING, "close_timeout", call="a.3", detail="two\nlines", s=1.23456)
    assert transceiver_line(caplog) == (
        "level=WARNING logger=earshot.transceiver worker=3 "
        r'event=close_timeout call=a.3 detail="two\nlines" s=1.235'
    )


def test_a_transceivers_defect_is_one_line_with_its_trace(caplog: pytest.LogCaptureFixture) -> None:
    transceiver_log.event(logging.ERROR, "request_failed", error=ValueError("no"))
    assert transceiver_line(caplog).endswith(r'event=request_failed traceback="ValueError: no"')


def test_what_a_transceivers_libraries_say_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    LOG.warning("x\nTrace of a %s", "library")
    assert (
        transceiver_line(caplog)
        == r'level=WARNING logger=test worker=3 event=log message="x\nTrace of a library"'
    )
