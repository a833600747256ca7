# SPDX-License-Identifier: Apache-2.0
"""Relays that die, and a Redis that goes: with real daemons and real times."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import grpc
import pytest

from tests.fleet.relays import FLAGS, RELAYS, SECONDS, Relays, session
from tests.lab.calls import wait_for
from tests.lab.fleet import Fleet

pytestmark = [pytest.mark.root, pytest.mark.netns, pytest.mark.nightly]


def test_no_session_is_lost_where_a_transceivers_relay_dies(fleet: Fleet, relays: Relays) -> None:
    first = relays.attach(1, "t1")
    first.add_session(session("s1"))
    first.add_session(session("s2"))
    relays.agree("t1", "s1", "s2")
    fleet.kill(1)
    with contextlib.suppress(grpc.RpcError, ConnectionError):
        list(first.events())
    second = relays.attach(3, "t1")
    second.snapshot(session("s1"), session("s3"))
    relays.agree("t1", "s1", "s3", at=(2, 3))
    fleet.start(1, *FLAGS)
    relays.agree("t1", "s1", "s3")  # not what its maps still held
    assert "event=transceiver_claimed transceiver=t1" in fleet.log(3)
    second.snapshot()
    relays.agree("t1")


def test_a_transceiver_that_stays_away_is_forgotten_by_all(fleet: Fleet, relays: Relays) -> None:
    told = relays.attach(1, "gone")
    told.add_session(session("s1"))
    relays.agree("gone", "s1")
    told.finish()
    relays.agree("gone")
    keys = fleet.redis.all_keys
    wait_for(lambda: not {key for key in keys() if key.endswith(":gone")}, "nothing of it in Redis", SECONDS)


def test_a_transceiver_whose_relay_died_with_it_is_kept_for_a_while_and_then_forgotten(
    fleet: Fleet, relays: Relays
) -> None:
    told = relays.attach(1, "gone")
    told.add_session(session("s1"))
    relays.agree("gone", "s1")
    fleet.kill(1)
    wait_for(lambda: "event=transceiver_unheld transceiver=gone" in fleet.log(2), "silence", SECONDS)
    assert relays.have(2, "gone") == {"s1"}
    relays.agree("gone", at=(2, 3))
    fleet.start(1, *FLAGS)
    relays.agree("gone")


def test_nothing_ends_and_nothing_is_forgotten_while_redis_is_away(fleet: Fleet, relays: Relays) -> None:
    told = relays.attach(1, "t1")
    for name in ("kept", "removed", "changed"):
        told.add_session(session(name))
    relays.agree("t1", "kept", "removed", "changed")
    other = relays.attach(2, "t2")
    other.add_session(session("there"))
    relays.agree("t2", "there")
    fleet.redis.kill()
    told.remove("removed")
    told.add_session(session("changed", port=4009))
    told.add_session(session("added"))
    told.add_session(session("came and went"[:4]))
    told.remove("came")
    time.sleep(8)  # longer than any grace
    assert relays.have(2, "t1") == {"kept", "removed", "changed"}
    assert relays.have(3, "t2") == {"there"}
    fleet.redis.start()  # empty
    relays.agree("t1", "kept", "changed", "added")
    relays.agree("t2", "there")
    assert all(relays.ports(number, "changed") == [4009] for number in RELAYS)
    told.snapshot()
    other.snapshot()
    relays.agree("t1")


def test_a_redis_that_hangs_is_one_that_is_away(fleet: Fleet, relays: Relays) -> None:
    told = relays.attach(1, "t1")
    told.add_session(session("before"))
    relays.agree("t1", "before")
    away = fleet.log(1).count("event=directory_away")  # it was killed before
    os.kill(fleet.redis.pid, signal.SIGSTOP)
    try:
        told.add_session(session("meanwhile"))
        wait_for(lambda: fleet.log(1).count("event=directory_away") > away, "noticed", SECONDS)
        assert relays.have(2, "t1") == {"before"}
    finally:
        os.kill(fleet.redis.pid, signal.SIGCONT)
    relays.agree("t1", "before", "meanwhile")
    told.snapshot()
    relays.agree("t1")


def test_sessions_that_no_relay_can_reach_yet_are_entered_when_they_can_be(
    fleet: Fleet, relays: Relays
) -> None:
    """Of the same transceiver others are not held up, nor is what comes later about the same session."""
    told = relays.attach(1, "t1")
    address = "10.99.0.77"
    fleet.relays[2].ip(f"route add unreachable {address}/32")
    far = session("far")
    far.endpoints[0].address = address
    assert told.add_session(far).code == 0
    assert told.add_session(session("near")).code == 0
    relays.agree("t1", "near", "far", at=(1, 3))
    relays.agree("t1", "near", at=(2,))
    fleet.relays[2].ip(f"route del unreachable {address}/32")
    relays.agree("t1", "near", "far")
    told.snapshot()
    relays.agree("t1")
