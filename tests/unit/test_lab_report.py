# SPDX-License-Identifier: Apache-2.0
"""The demo's verdict: what it claims follows from the figures."""

from __future__ import annotations

import dataclasses
import io
import json

import pytest
from earshot.relay.v1 import relay_pb2 as pb

from tests.lab.live import LiveTable
from tests.lab.report import MOST_ROWS, RelayReport, Report, flow_table

GOOD = Report(
    calls=2,
    seconds=4,
    ip_version=4,
    connected=2,
    audio_verified=2,
    data_channel_verified=2,
    setup_ms=[100.0, 140.0],
    correlation=[0.98, 0.96],
    errors=[],
    relay=RelayReport(to_transceiver_packets=1400, to_client_packets=1390, dropped={}, stack_packets=0),
    xdp_mode="native",
    signalling_udp_packets=0,
)


def flow(number: int) -> pb.Flow:
    return pb.Flow(
        flow_id=number << 32,
        session_id=f"s{number}",
        transceiver="transceiver",
        client=pb.Endpoint(address="2001:db8::1", port=1000 + number),
        backend=pb.Endpoint(address="10.0.0.1", port=2000),
        age_seconds=3,
        to_transceiver_packets=1234,
        to_transceiver_bytes=100_000,
    )


def test_the_report_proves_what_happened() -> None:
    assert GOOD.failures() == []
    proof = "\n".join(GOOD.proof())
    assert "2 of 2 calls connected; offer to media: median 120 ms, slowest 140 ms" in proof
    assert "dropped: nothing" in proof


def test_the_callers_results_are_counted() -> None:
    good = {
        "connected": True,
        "audio_verified": True,
        "data_channel_verified": True,
        "setup_ms": 120.0,
        "correlation": 0.97,
        "error": None,
    }
    bad = {
        "connected": False,
        "audio_verified": False,
        "data_channel_verified": False,
        "setup_ms": None,
        "correlation": 0.0,
        "error": "no media",
    }
    report = Report.of(
        [good, bad], seconds=4, ip_version=6, relay=GOOD.relay, xdp_mode="native", signalling_udp_packets=0
    )
    assert (report.calls, report.connected, report.audio_verified, report.data_channel_verified) == (
        2,
        1,
        1,
        1,
    )
    assert report.setup_ms == [120.0]
    assert len(report.failures()) == 4


@pytest.mark.parametrize(
    ("changes", "failure"),
    [
        ({"errors": ["no media"]}, "a call failed: no media"),
        ({"connected": 1}, "1 of 2 calls connected"),
        ({"audio_verified": 0}, "0 of 2 heard their own audio come back"),
        ({"data_channel_verified": 1}, "1 of 2 had their data channel answered"),
        ({"xdp_mode": "generic"}, "XDP is attached as generic, not native"),
        ({"signalling_udp_packets": 3}, "3 UDP packets tried to pass the relay by"),
        (
            {"relay": dataclasses.replace(GOOD.relay, stack_packets=7)},
            "7 UDP packets to the VIP reached the relay's stack",
        ),
    ],
)
def test_any_shortfall_is_a_failure(changes: dict[str, object], failure: str) -> None:
    assert dataclasses.replace(GOOD, **changes).failures() == [failure]


def test_the_json_has_the_documented_keys() -> None:
    figures = json.loads(json.dumps(GOOD.as_json()))
    assert figures["calls"] == 2
    assert figures["relay"]["stack_packets"] == 0
    assert figures["setup_ms"] == [100.0, 140.0]


def test_counters_are_summed_by_direction_and_drops_kept_by_reason() -> None:
    counters = {
        "pass_not_udp": 9,
        "forward_bound": 2,
        "forward_to_transceiver": 10,
        "forward_to_client": 11,
        "drop_ttl": 0,
        "drop_no_flow": 3,
        "aborted_bad_number": 1,
    }
    assert RelayReport.of(counters, 4) == RelayReport(12, 11, {"drop_no_flow": 3, "aborted_bad_number": 1}, 4)


def test_the_table_is_aligned_and_bounded() -> None:
    lines = flow_table([flow(number) for number in range(MOST_ROWS + 5, 0, -1)])
    assert lines[0].split()[0] == "SESSION"
    assert lines[1].startswith("s1 ")
    assert "[2001:db8::1]:1001" in lines[1]
    assert lines[1].split()[4:6] == ["1,234", "100.0"]
    assert lines[-1] == "and 5 more"
    columns = {line.index("transceiver 10.0.0.1") for line in lines[1:-1]}
    assert columns == {lines[0].index("TRANSCEIVER")}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_the_table_is_drawn_in_place() -> None:
    out = Terminal()
    table = LiveTable(out)
    table.show(["one"])
    table.show(["two"])
    table.finish()
    table.finish()
    assert out.getvalue() == "one\n\n\x1b[2A\x1b[Jtwo\n\n"


def test_a_terminal_gets_no_more_than_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "5")
    monkeypatch.setenv("LINES", "4")
    out = Terminal()
    LiveTable(out).show(["much too long"] * 9)
    assert out.getvalue() == "much \nmuch \n\n"


def test_elsewhere_it_is_drawn_again_below() -> None:
    out = io.StringIO()
    table = LiveTable(out)
    table.show(["one"])
    table.show(["two"])
    table.finish()
    assert out.getvalue() == "one\n\ntwo\n\n"
