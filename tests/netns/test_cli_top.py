# SPDX-License-Identifier: Apache-2.0
"""`earshot top` of calls with known traffic: what it reports, and what a terminal shows."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from control.pinned import open_pinned
from tests.lab.calls import RTP, Call, call, payload
from tests.lab.services import endpoint
from tests.lab.terminal import Terminal
from tests.lab.topology import Site
from tests.netns.command import earshot_here as earshot
from tests.netns.command import served
from tests.netns.schema import assert_fits

pytestmark = [pytest.mark.root, pytest.mark.netns]

OPTIONS = ("--interval", "0.3", "--sort", "client")


class Stage(NamedTuple):
    site: Site
    calls: tuple[Call, Call]  # IPv4 and IPv6

    def client(self, number: int) -> str:
        port = self.calls[number].client.getsockname()[1]
        return endpoint(self.site.addresses[(4, 6)[number]].client, port)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with ExitStack() as stack:
        site, _, attachment = stack.enter_context(served("voice-1"))
        calls = [stack.enter_context(call(site, attachment, family)) for family in (4, 6)]
        for made in calls:
            made.bind()
        yield Stage(site, (calls[0], calls[1]))


def test_quality(stage: Stage) -> None:
    """Every tenth packet of one way is lost before the relay. First here: others send SSRCs at random."""
    first = stage.calls[1]
    for sequence in range(1, 101):
        if sequence % 10 != 5:
            first.up(struct.pack("!BBHII", 0x80, 111, sequence, 960 * sequence, 0xC0FFEE) + bytes(80))
    [row] = [
        row
        for row in earshot(
            stage.site, "top", "--once", "--interval", "0.2", "--sort", "loss", "-o", "json"
        ).json["calls"]
        if row["client"] == stage.client(1)
    ]
    assert row["to_transceiver_loss_ratio"] == pytest.approx(0.1, abs=1e-6)
    shown = earshot(stage.site, "flow", "show", row["flow_id"], "-o", "json").json
    assert_fits("flow show", shown)
    [stream] = [stream for stream in shown["quality"]["streams"] if stream["ssrc"] == 0xC0FFEE]
    assert (stream["direction"], stream["packets"], stream["lost"], stream["loss"]) == ("up", 90, 10, 0.1)
    assert "SSRC 00c0ffee: 90 packets" in earshot(stage.site, "flow", "show", row["flow_id"]).out


def test_rates_are_those_of_the_traffic(stage: Stage) -> None:
    from control.cli.top_report import Observer

    first, second = stage.calls
    datapath = open_pinned(stage.site.lab.pins)
    observer = Observer(datapath, stage.site.lab.pins)
    for _ in range(30):
        first.up(payload(RTP, 100))
    for _ in range(10):
        second.down(payload(RTP, 200))
    first.transceiver.sendto(b"\x80 to nobody", (stage.site.addresses[4].relay, 10001))
    first.up(payload(RTP, 100))  # and so the other one has been counted
    report = observer.report("up", False, "", 10)
    assert_fits("top", report)
    seconds = report["interval_seconds"]

    def counted(per_second: float) -> int:
        return round(per_second * seconds)

    assert [row["client"] for row in report["calls"]] == [stage.client(0), stage.client(1)]
    up, down = report["calls"]
    assert counted(up["to_transceiver_packets_per_second"]) == 31
    assert up["to_transceiver_bytes_per_second"] * seconds == pytest.approx(31 * 128, rel=0.02)
    assert up["to_client_packets_per_second"] == 0
    assert counted(down["to_client_packets_per_second"]) == 10
    assert counted(report["to_transceiver_packets_per_second"]) == 31
    assert counted(report["to_client_packets_per_second"]) == 10
    assert list(report["drops_per_second"]) == ["drop_no_relay_flow"]
    assert (report["flows"]["live"], report["sessions"], report["matching"]) == (2, 2, 2)
    assert [row["client"] for row in observer.report("down", True, "", 1, 1)["calls"]]
    for wanted, matching in (
        ("198.51.100.0/24", 1),
        ("2001:db8:c::/64", 1),
        (stage.client(0), 1),
        (second.ufrag, 1),
        ("voice", 2),
        (first.session_id, 1),
        ("nobody", 0),
    ):
        assert observer.report("client", False, wanted, 10)["matching"] == matching, wanted
    datapath.close()


def test_once_for_scripts(stage: Stage) -> None:
    report = earshot(stage.site, "top", "-n", "1", "-o", "json", "--interval", "0.2", "--sort", "client")
    assert_fits("top", report.json)
    assert [row["client"] for row in report.json["calls"]] == [stage.client(0), stage.client(1)]
    shown = earshot(stage.site, "top", "--once", "--interval", "0.2", "--filter", stage.client(1)).out
    assert "calls 1 of 2" in shown
    assert stage.client(1) in shown
    assert stage.client(0) not in shown


def line_of(display: list[str], text: str) -> str:
    return next((line for line in display if text in line), "")


def test_on_a_terminal(stage: Stage) -> None:
    first, second = stage.client(0), stage.client(1)

    def talk() -> None:
        stage.calls[0].up(payload(RTP, 100))

    with Terminal(stage.site, 80, 24, *OPTIONS) as terminal:
        shown = terminal.until(
            lambda shown: len(cells := line_of(shown, first).split()) > 1 and float(cells[1]) > 5,
            "the rate of the first call",
            talk,
        )
        assert "calls 2" in shown[0]
        assert shown[3].startswith("CLIENTv")
        assert "TRANSCEIVER" not in shown[3]
        assert shown[4].startswith(first)
        assert shown[5].startswith(second[:20])
        assert "q quit" in shown[23]
        terminal.press("r")
        terminal.until(lambda shown: shown[4].startswith(second[:20]), "the other way round", talk)
        terminal.press("/198.51.100.10\r")
        terminal.until(lambda shown: "calls 1 of 2" in shown[0], "the filter", talk)
        terminal.press("\r")
        shown = terminal.until(lambda shown: line_of(shown, "owner"), "the screen of a call", talk)
        assert line_of(shown, "client ").split() == ["client", first]
        assert "voice-1, attached" in line_of(shown, "owner")
        terminal.press("\x1b")
        terminal.until(lambda shown: shown[3].startswith("CLIENT"), "the list again", talk)
        terminal.press("p")
        terminal.until(lambda shown: shown[0].startswith("PAUSED"), "the pause", talk)
        terminal.press("p\x1b")
        terminal.resize(200, 50)
        shown = terminal.until(
            lambda shown: "FLOW" in shown[3] and "calls 2" in shown[0], "200 columns", talk
        )
        assert stage.calls[0].session_id in line_of(shown, first)
        terminal.press("q")
        assert terminal.status() == 0


def test_a_terminal_that_goes_away_ends_it(stage: Stage) -> None:
    terminal = Terminal(stage.site, 80, 24, *OPTIONS)
    terminal.until(lambda shown: "earshot" in shown[0], "the first screen", lambda: None)
    os.close(terminal.master)
    assert terminal.process.wait(20) is not None
