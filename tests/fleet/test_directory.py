# SPDX-License-Identifier: Apache-2.0
"""Relays that share their sessions: what one is told all have, and bind. test_sessions.py has more.

test_directory_long.py, of nights, has what takes its time.
"""

from __future__ import annotations

import json
import socket
from typing import Any

import grpc
import pytest

from tests.fleet.relays import RELAYS, SECONDS, Relays, session
from tests.lab.calls import DEADLINE, STUN_PWD, Call, wait_for
from tests.lab.fleet import KEY_NUMBER, REGION, TRANSCEIVERS, VIP, VIP_PORT, Fleet
from tests.lab.scraping import Values, scrape
from tests.netns.schema import assert_fits

pytestmark = [pytest.mark.root, pytest.mark.netns]


def test_what_one_relay_is_told_all_have(relays: Relays) -> None:
    told = relays.attach(1, "t1")
    assert told.add_session(session("s1")).code == 0
    assert told.add_session(session("s2", port=4001)).code == 0
    relays.agree("t1", "s1", "s2")
    there = next(one for one in relays.clients[2].sessions() if one.session_id == "s2")
    assert list(there.ufrags) == ["s2ufrag"]
    assert [(end.address, end.port) for end in there.endpoints] == [(TRANSCEIVERS, 4001)]
    assert there.has_pwd
    told.remove("s1")
    relays.agree("t1", "s2")
    told.snapshot()
    relays.agree("t1")


def test_any_relay_binds_what_another_was_told(fleet: Fleet, relays: Relays) -> None:
    told = relays.attach(1, "t1")
    with (
        fleet.hub.socket(socket.AF_INET, timeout=DEADLINE) as client,
        fleet.hub.socket(socket.AF_INET, timeout=DEADLINE) as transceiver,
    ):
        client.bind((TRANSCEIVERS, 0))
        transceiver.bind((TRANSCEIVERS, 0))
        told.add("bound", "boundufrag", [transceiver.getsockname()[:2]], STUN_PWD)
        relays.agree("t1", "bound")
        call = Call(client, transceiver, (VIP, VIP_PORT), "bound", "boundufrag")
        for number in RELAYS:
            fleet.route_clients(number)
            assert call.bind(requests=10)[0] == f"10.20.{number}.1"
            wait_for(lambda number=number: len(relays.clients[number].flows("bound")) == 1, "a flow")
        told.remove("bound")
        wait_for(lambda: not any(relays.clients[n].flows("bound") for n in RELAYS), "no flow", SECONDS)


def test_a_transceiver_that_attaches_elsewhere_is_told_so_here(relays: Relays) -> None:
    first = relays.attach(1, "t1")
    first.add_session(session("s1"))
    first.add_session(session("s2"))
    relays.agree("t1", "s1", "s2")
    second = relays.attach(2, "t1")
    assert second.welcome.sessions == 2
    with pytest.raises(grpc.RpcError) as error:
        list(first.events())
    assert error.value.code() is grpc.StatusCode.ABORTED
    second.snapshot(session("s2"), session("s3"))
    relays.agree("t1", "s2", "s3")
    third = relays.attach(1, "t1")
    third.snapshot(session("s2"))
    relays.agree("t1", "s2")
    third.snapshot()
    relays.agree("t1")


def test_fleet_status(fleet: Fleet, relays: Relays) -> None:
    told = relays.attach(1, "t1")
    told.add_session(session("s1"))
    relays.agree("t1", "s1")

    def found() -> dict[str, Any]:
        said = fleet.earshot(2, "fleet", "status", "-o", "json", f"--socket={fleet.socket(2)}")
        return dict(json.loads(said))

    wait_for(lambda: len(found()["relays"]) == 3, "all are heard", SECONDS)
    report = found()
    assert_fits("fleet status", report)
    assert report["directory"]["up"]
    assert [one["relay"] for one in report["relays"] if one["this"]] == ["relay-2"]
    assert {(one["relay"], one["state"], *one["keys"]) for one in report["relays"]} == {
        (f"relay-{number}", "serving", KEY_NUMBER) for number in RELAYS
    }
    (there,) = (one for one in report["transceivers"] if one["transceiver"] == "t1")
    assert (there["relay"], there["state"], there["sessions"]) == ("relay-1", "attached", 1)
    assert {one["region"] for one in report["relays"]} == {REGION}
    assert there["region"] is None, "it has not said where it is"
    text = fleet.earshot(2, "fleet", "status", f"--socket={fleet.socket(2)}")
    assert "up for" in text
    assert "relay-3" in text
    told.snapshot()


def test_metrics_of_the_directory(fleet: Fleet, relays: Relays) -> None:
    told = relays.attach(1, "t1")
    told.add_session(session("s1"))
    relays.agree("t1", "s1")
    wait_for(lambda: metrics(fleet, 2)["earshot_directory_relays",] == 2, "all are heard", SECONDS)
    here, there = metrics(fleet, 1), metrics(fleet, 2)
    for values in (here, there):
        assert values["earshot_directory_configured",] == values["earshot_directory_up",] == 1
        assert (
            values["earshot_directory_queued_sessions",] == values["earshot_directory_pending_sessions",] == 0
        )
    assert here["earshot_directory_changes_total", "told"] >= 1
    assert there["earshot_directory_changes_total", "heard"] >= 1
    assert here["earshot_directory_transceivers", "here"] >= 1
    assert there["earshot_directory_transceivers", "elsewhere"] >= 1
    fleet.redis.cli(
        "XADD", "earshot:sessions", "*", "m", "not sealed at all, and long enough to be looked at"
    )
    wait_for(
        lambda: all(sum(value for name, value in refused(fleet, number).items()) >= 1 for number in RELAYS),
        "refused and counted",
        SECONDS,
    )
    told.add_session(session("s2"))
    relays.agree("t1", "s1", "s2")
    told.snapshot()


def metrics(fleet: Fleet, number: int) -> Values:
    return scrape(fleet.relays[number], "127.0.0.1", 9464)


def refused(fleet: Fleet, number: int) -> Values:
    return {
        name: value
        for name, value in metrics(fleet, number).items()
        if name[0] == "earshot_directory_refused_total"
    }
