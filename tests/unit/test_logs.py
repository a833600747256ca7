# SPDX-License-Identifier: Apache-2.0
"""One line an event, whatever is in it."""

from __future__ import annotations

import logging

import pytest

from control.logs import KeyValueFormatter, event

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
