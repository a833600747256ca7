# SPDX-License-Identifier: Apache-2.0
"""`earshot top` without a terminal and without maps: rates, orders, columns, keys."""

from __future__ import annotations

import os
import pty
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from control import abi, live_flows
from control.cli import top_screen, top_table
from control.cli.top_keys import decode, keyboard
from control.cli.top_view import HELP, ORDER_KEYS, Mode, View
from control.flows import Clock
from control.live_flows import ORDERS, Subject

LIVE = int(abi.FlowState.LIVE)


def table(*states: int) -> Any:
    flows = np.zeros(len(states), abi.FLOW)
    flows["state"] = states
    return flows


def at(seconds: float) -> Clock:
    return Clock.at(int(seconds * 1e9))


# ---- rates -------------------------------------------------------------------------------


def test_rates_are_differences() -> None:
    flows = table(LIVE | 5 << 4, abi.FlowState.DEAD, LIVE | 6 << 4)
    flows["up_packets"] = [100, 7, 2**32 - 1]
    before = live_flows.look(flows, at(10))
    flows["up_packets"] = [150, 9, 9]  # the last one has come round
    flows["down_bytes"][0] = 4000
    after = live_flows.look(flows, at(12))
    current = live_flows.activity(before, after)
    assert current.numbers.tolist() == [0, 2]
    assert current.rates["up_packets"].tolist() == [25, 5]
    assert current.rates["down_bytes"].tolist() == [2000, 0]
    assert current.total("up_packets") == 30
    assert (after.superseded, after.dead, after.provisional) == (0, 1, 0)


def test_a_new_flow_has_all_it_counted_and_one_in_its_place_likewise() -> None:
    flows = table(LIVE | 5 << 4, 0)
    flows["up_packets"][0] = 1000
    before = live_flows.look(flows, at(10))
    flows["state"] = [LIVE | 11 << 4, LIVE | 11 << 4]  # another flow in the record, and one more
    flows["up_packets"] = [10, 20]
    current = live_flows.activity(before, live_flows.look(flows, at(12)))
    assert current.rates["up_packets"].tolist() == [5, 10]


def test_an_empty_table() -> None:
    flows = table(0, 0)
    current = live_flows.activity(live_flows.look(flows, at(1)), live_flows.look(flows, at(2)))
    assert (len(current.numbers), current.total("up_bytes")) == (0, 0)


# ---- order -------------------------------------------------------------------------------


def subject(**columns: Sequence[float]) -> Subject:
    """Five flows; 0 to 4 are their numbers."""
    flows = table(*(LIVE | second << 4 for second in (50, 10, 30, 20, 40)))
    flows["last_seen"] = np.array([5, 4, 3, 2, 1]) * 1000
    raw = [b"\0" * 10 + b"\xff\xff" + bytes([10, 0, 0, last]) for last in (9, 200, 7, 8, 7)]
    flows["client_addr"] = [np.void(address) for address in raw]
    flows["client_port"] = [1, 1, 40000, 1, 300]
    rates = {name: np.array(columns.get(name, [0, 0, 0, 0, 0]), float) for name in live_flows.COUNTERS}
    measured = {
        name: np.array(columns.get(name, [np.nan] * 5), float)
        for name in ("up_loss", "down_loss", "up_jitter", "down_jitter", "client_trip", "transceiver_trip")
    }
    owners = np.array([2, 0, 1, 1, 0])
    return Subject(flows, np.arange(5, dtype=np.uint32), rates, measured, owners, at(10))


@pytest.mark.parametrize(
    ("order", "columns", "expected"),
    [
        ("rate", {"up_bytes": [1, 2, 3, 4, 5], "down_bytes": [9, 0, 0, 0, 0]}, [0, 4, 3, 2, 1]),
        ("up", {"up_packets": [1, 5, 2, 4, 3]}, [1, 3, 4, 2, 0]),
        ("down", {"down_packets": [0, 0, 7, 0, 0]}, [2, 0, 1, 3, 4]),
        ("loss", {"up_loss": [0, np.nan, 0.5, 0, 0], "down_loss": [0.1, np.nan, 0, 0, 0.7]}, [4, 2, 0, 3, 1]),
        ("trip", {"client_trip": [np.nan, 5, np.nan, 90, np.nan]}, [3, 1, 0, 2, 4]),
        ("age", {}, [1, 3, 2, 4, 0]),
        ("idle", {}, [4, 3, 2, 1, 0]),
        ("client", {}, [4, 2, 3, 0, 1]),
        ("transceiver", {}, [1, 4, 2, 3, 0]),
    ],
)
def test_orders(order: str, columns: dict[str, list[float]], expected: list[int]) -> None:
    made = subject(**columns)
    assert live_flows.first(made, order, False, 5).tolist() == expected
    assert live_flows.first(made, order, False, 1)[0] == expected[0]
    first_of_reverse = live_flows.first(made, order, True, 5)[0]
    key = ORDERS[order](made)
    assert key[first_of_reverse] == key[expected[-1]]


def test_every_order_has_a_key_and_a_line_of_help() -> None:
    assert set(ORDER_KEYS.values()) == set(ORDERS)
    helped = {key for keys, _ in HELP for key in keys.split()}
    assert set(ORDER_KEYS) <= helped


# ---- columns -----------------------------------------------------------------------------

ROW = {
    "flow_id": "63329292785726",
    "client": "198.51.100.10:35750",
    "vip": "203.0.113.1:3478",
    "relay": "10.20.0.1:16206",
    "backend": "10.20.0.10:34382",
    "transceiver": "voice-1",
    "session_id": "b60946f484272e762a2c32db5b69",
    "age_seconds": 754,
    "idle_milliseconds": 20,
    "to_transceiver_packets_per_second": 50.2,
    "to_client_packets_per_second": 49.9,
    "to_transceiver_bytes_per_second": 12_875.0,
    "to_client_bytes_per_second": 12_875.0,
    "to_transceiver_loss_ratio": 0.034,
    "to_client_loss_ratio": None,
    "to_transceiver_jitter_milliseconds": 3.6,
    "to_client_jitter_milliseconds": 12.0,
    "client_trip_milliseconds": 41.0,
    "transceiver_trip_milliseconds": None,
}


@pytest.mark.parametrize("width", [1, 20, 40, 80, 100, 132, 200, 300])
def test_columns_fit(width: int) -> None:
    columns = top_table.fitted([ROW], width)
    assert columns[0][0].title == "CLIENT"
    assert len(top_table.row_line(columns, ROW, width)) == width
    assert len(top_table.titles(columns, "rate", False, width)) == width


def test_what_matters_most_is_there_at_80_columns_and_everything_at_200() -> None:
    narrow = {column.title for column, _ in top_table.fitted([ROW], 80)}
    assert narrow >= {"CLIENT", "UP/s", "DOWN/s", "LOSS%", "JITTER", "TRIP", "AGE"}
    assert "FLOW" not in narrow
    wide = top_table.fitted([ROW], 200)
    assert len(wide) == len(top_table.COLUMNS)
    assert " ".join(top_table.row_line(wide, ROW, 200).split()) == (
        "198.51.100.10:35750 50 50 103k 103k 3.4/- 4/12 41/- 12m34s 0.0s voice-1 "
        "b60946f484272e762a2c32db5b69 10.20.0.1:16206 10.20.0.10:34382 203.0.113.1:3478 63329292785726"
    )
    assert "LOSS%v" in top_table.titles(wide, "loss", False, 200)
    assert "LOSS%^" in top_table.titles(wide, "loss", True, 200)


# ---- keys --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "keys"),
    [
        (b"q", ["q"]),
        (b"\x1b[A\x1b[B\x1bOA", ["up", "down", "up"]),
        (b"\x1b[5~\x1b[6~\x1b[H\x1b[4~", ["page-up", "page-down", "home", "end"]),
        (b"\x1b", ["escape"]),
        (b"\x1bq", ["escape", "q"]),
        (b"\x1b[1;5Cx", ["x"]),  # one that is not known
        (b"\x1b[", []),
        (b"a\r\x7f\x01\xc3\xa9", ["a", "enter", "backspace"]),
    ],
)
def test_what_a_terminal_sends(raw: bytes, keys: list[str]) -> None:
    assert decode(raw) == keys


def test_a_terminal_is_left_as_it_was() -> None:
    import termios

    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    with keyboard(slave) as keys:
        os.write(master, b"b\x1b[B")
        assert keys.wait(5) == ["b", "down"]
        assert keys.wait(0) == []
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)


def pressed(view: View, *keys: str, page: int = 10, matching: int = 25, chosen: str | None = "77") -> View:
    for key in keys:
        view.press(key, page, matching, chosen)
    return view


def test_the_cursor_stays_among_the_calls_and_on_the_screen() -> None:
    view = pressed(View(), "down", "down")
    assert (view.cursor, view.skip) == (2, 0)
    pressed(view, "page-down")
    assert (view.cursor, view.skip) == (12, 3)
    pressed(view, "end", "down")
    assert (view.cursor, view.skip) == (24, 15)
    pressed(view, "home", "up")
    assert (view.cursor, view.skip) == (0, 0)
    pressed(view, "end")
    view.fit(page=10, matching=3)  # calls have ended
    assert (view.cursor, view.skip) == (2, 0)
    view.fit(page=10, matching=0)
    assert (view.cursor, view.skip) == (0, 0)


def test_orders_by_keys() -> None:
    view = pressed(View(), "down", "l")
    assert (view.order, view.is_reversed, view.cursor) == ("loss", False, 0)
    assert pressed(view, "r").is_reversed
    assert pressed(view, ">").order == "jitter"
    assert pressed(View(), "<").order == list(ORDERS)[-1]


def test_a_filter_is_typed() -> None:
    view = pressed(View(), "/", "q", "x", "y", "backspace")
    assert (view.mode, view.typed, view.has_ended, view.wanted) == (Mode.FILTER, "qx", False, "")
    assert pressed(view, "enter").wanted == "qx"
    assert pressed(view, "/", "1", "escape").wanted == "qx"
    assert pressed(view, "escape").wanted == ""


def test_a_call_and_back() -> None:
    view = pressed(View(), "enter")
    assert (view.mode, view.call) == (Mode.CALL, "77")
    assert pressed(view, "escape").mode is Mode.LIST
    assert pressed(view, "enter", chosen=None).mode is Mode.LIST
    assert pressed(view, "?").mode is Mode.HELP
    assert not view.has_ended
    assert pressed(view, "q").has_ended


@pytest.mark.parametrize("key", ["interrupt", "end-of-input"])
def test_a_terminal_that_is_gone_ends_it_also_while_a_filter_is_typed(key: str) -> None:
    assert pressed(View(), "/", key).has_ended


REPORT = {
    "flows": {"live": 1, "superseded": 0, "dead": 0, "provisional": 0, "capacity": 1000},
    "occupancy_ratio": 0.001,
    "sessions": 1,
    "ufrags": {"used": 1, "capacity": 100},
    "transceivers": {"attached": 1, "detached": 2},
    "to_transceiver_packets_per_second": 50.0,
    "to_client_packets_per_second": 50.0,
    "to_transceiver_bytes_per_second": 1000.0,
    "to_client_bytes_per_second": 1000.0,
    "drops_per_second": {"drop_no_flow": 12.0, "drop_ttl": 0.5},
    "nanoseconds_per_packet": 183.4,
    "order": "rate",
    "reversed": False,
    "filter": None,
    "matching": 1,
    "calls": [ROW],
}


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 50), (20, 5), (1, 1)])
def test_a_screen_is_neither_wider_nor_higher_than_the_terminal(mode: Mode, width: int, height: int) -> None:
    view = View(mode=mode, typed="x" * 300)
    lines = top_screen.lines(REPORT, view, ["a detail " * 30], width, height)
    assert len(lines) <= max(height, 4)
    assert all(len(line.plain) <= width for line in lines)


def test_the_summary() -> None:
    said = "\n".join(line.plain for line in top_screen.lines(REPORT, View(is_paused=True), [], 132, 24))
    assert "PAUSED" in said
    assert "transceivers 1 (+2 detached)" in said
    assert "183 ns/pkt" in said
    assert "drops 12/s: no_flow 12  ttl 0.5" in said
