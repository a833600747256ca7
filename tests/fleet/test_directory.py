# SPDX-License-Identifier: Apache-2.0
"""Relays that share their sessions: what one is told all have, whatever happens to them and to Redis."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import grpc
import pytest
from earshot.relay.v1 import relay_pb2 as pb

from tests.lab.calls import DEADLINE, STUN_PWD, Call, wait_for
from tests.lab.fleet import TRANSCEIVERS, VIP, VIP_PORT, Fleet
from tests.lab.netns import Lab
from tests.lab.relay_client import Attachment, RelayClient

pytestmark = [pytest.mark.root, pytest.mark.netns]

PWD = "a" * 22
RELAYS = (1, 2, 3)
FLAGS = ("--grace-seconds=4", "--directory-grace-seconds=6")
SECONDS = 40.0


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Lab() as lab:
        made = Fleet(lab, len(RELAYS))
        made.start_all(*FLAGS)
        yield made


def session(name: str, port: int = 4000, pwd: str = PWD) -> pb.Session:
    return pb.Session(
        session_id=name,
        credentials=[pb.Credential(ufrag=f"{name}ufrag", pwd=pwd)],
        endpoints=[pb.Endpoint(address=TRANSCEIVERS, port=port)],
    )


class Relays:
    """What the relays have, asked of each."""

    def __init__(self, fleet: Fleet, stack: ExitStack) -> None:
        self.clients = {number: stack.enter_context(RelayClient(fleet.target(number))) for number in RELAYS}
        self.stack = stack

    def attach(self, number: int, transceiver: str) -> Attachment:
        return self.stack.enter_context(self.clients[number].attach(transceiver))

    def have(self, number: int, transceiver: str) -> set[str]:
        return {one.session_id for one in self.clients[number].sessions() if one.transceiver == transceiver}

    def ports(self, number: int, name: str) -> list[int]:
        (found,) = (one for one in self.clients[number].sessions() if one.session_id == name)
        return [end.port for end in found.endpoints]

    def agree(self, transceiver: str, *names: str, at: tuple[int, ...] = RELAYS) -> None:
        """Returns when all relays have these sessions of a transceiver and no others."""
        wait_for(
            lambda: all(self.have(number, transceiver) == set(names) for number in at),
            f"{names} of {transceiver} at {at}",
            SECONDS,
        )


@pytest.fixture
def relays(fleet: Fleet) -> Iterator[Relays]:
    with ExitStack() as stack:
        yield Relays(fleet, stack)


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
    # Somebody who comes hears of it although nobody speaks for it.
    wait_for(lambda: "event=transceiver_unheld transceiver=gone" in fleet.log(2), "silence", SECONDS)
    fleet.kill(3)
    shutil.rmtree(fleet.pins(3))
    fleet.start(3, *FLAGS)
    relays.agree("gone", "s1", at=(2, 3))
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
    os.kill(fleet.redis.pid, signal.SIGSTOP)
    try:
        told.add_session(session("meanwhile"))
        wait_for(lambda: "event=directory_away" in fleet.log(1), "noticed", SECONDS)
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
