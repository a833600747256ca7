# SPDX-License-Identifier: Apache-2.0
"""`earshot drops`, of packets that a test has sent."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from control import abi, reasons
from tests.lab.services import BIN
from tests.lab.topology import VIP_PORT, Site
from tests.netns.command import earshot, site_with_program
from tests.netns.schema import assert_fits

pytestmark = [pytest.mark.root, pytest.mark.netns]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with site_with_program() as made:
        yield made


def send(site: Site, payload: bytes, packets: int) -> None:
    """From the client to the VIP."""
    with site.client.socket(socket.AF_INET) as client:
        for _ in range(packets):
            client.sendto(payload, (site.addresses[4].vip, VIP_PORT))


def counted(site: Site) -> dict[str, int]:
    rows = earshot(site, "drops", "--interval", "0", "-o", "json").json["reasons"]
    return {row["reason"]: row["packets"] for row in rows if row["packets"]}


def test_totals(site: Site) -> None:
    assert earshot(site, "drops", "--interval", "0").err.startswith("Nothing has been dropped")
    send(site, b"\x80 media of nobody", 7)
    send(site, b"GET / HTTP/1.0", 3)
    assert counted(site) == {"drop_no_flow": 7, "drop_not_rtc": 3}
    said = earshot(site, "drops", "--interval", "0", "-o", "json").json
    assert_fits("drops", said)
    assert [row["reason"] for row in said["reasons"][:2]] == ["drop_no_flow", "drop_not_rtc"]
    assert said["reasons"][0]["bytes"] == 7 * (20 + 8 + 17)
    assert (said["packets"], said["packets_per_second"]) == (10, None)
    assert len(said["reasons"]) == sum(reasons.is_loss(reason) for reason in abi.Reason)


def test_a_table_explains_itself(site: Site) -> None:
    send(site, b"GET / HTTP/1.0", 1)
    shown = earshot(site, "drops", "--interval", "0").out
    assert "drop_not_rtc" in shown
    assert "-> something else sends to the VIP: TURN, QUIC, scanners" in shown
    assert "drop_ttl" not in shown
    assert "drop_ttl" in earshot(site, "drops", "--interval", "0", "--all").out
    assert "`" not in shown


def test_rates(site: Site) -> None:
    """What drops now comes before what has dropped most; packets come all the while."""
    send(site, b"GET / HTTP/1.0", 500)
    command = [str(BIN / "earshot"), "drops", "--interval", "1", "--pin-path", str(site.lab.pins)]
    argv = site.relay.command(*command, "-o", "json")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            send(site, b"\x80 media of nobody", 1)
            time.sleep(0.01)
        assert process.stdout is not None
        said = json.loads(process.stdout.read())
    assert_fits("drops", said)
    first, second = said["reasons"][:2]
    assert first["reason"] == "drop_no_flow"
    assert first["packets_per_second"] > 0
    assert first["bytes_per_second"] == pytest.approx(45 * first["packets_per_second"], rel=0.1)
    assert said["packets_per_second"] == first["packets_per_second"]
    assert said["interval_seconds"] >= 1
    assert (second["reason"], second["packets_per_second"]) == ("drop_not_rtc", 0)
