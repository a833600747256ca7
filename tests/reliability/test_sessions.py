# SPDX-License-Identifier: Apache-2.0
"""Sessions and transceivers go, while the packets of all calls fly: the others feel nothing of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from tests.lab.calls import RTP, Call, call, wait_for
from tests.lab.crowd import Member
from tests.netns.raw_stream import remove
from tests.reliability.stage import Record, Stage, set_up

pytestmark = [pytest.mark.root, pytest.mark.netns]

LEAVING = 20  # calls that end in each test
GRACE_SECONDS = 2
TRIES = 20
MORE = 20  # packets each way after the answer


@pytest.fixture(scope="module")
def module_stage() -> Iterator[Stage]:
    with set_up(f"--grace-seconds={GRACE_SECONDS}") as made:
        yield made


@pytest.fixture
def stage(module_stage: Stage) -> Stage:
    """A stage of this module's own, with every call bound."""
    module_stage.ensure(f"--grace-seconds={GRACE_SECONDS}")
    return module_stage


def numbers(stage: Stage, leaving: Sequence[Member]) -> set[int]:
    return {stage.crowd.members.index(member) for member in leaving}


def assert_only_they_lost(stage: Stage, leaving: Sequence[Member], record: Record) -> None:
    """In a phase of its own: nothing of the calls that have ended passes, and all of the others."""
    gone = numbers(stage, leaving)
    before = [stage.traffic.received(call) for call in gone]
    with stage.traffic.flowing() as phase:
        stage.traffic.wait_for_rounds(10)
    assert [stage.traffic.received(call) for call in gone] == before
    assert {call for call, _ in phase.lost} == gone
    record("lost_of_others", sum(lost for (call, _), lost in phase.lost.items() if call not in gone))


def test_sessions_are_removed(stage: Stage, record_property: Record) -> None:
    """One by one, each with all packets of all calls under way."""
    leaving = stage.crowd.members[:LEAVING]
    with stage.attached() as attachment:
        with stage.flowing(record_property) as phase:
            for member in leaving:
                assert attachment.remove(member.session.session_id).code == 0
                stage.traffic.wait_for_rounds(1)
        assert {call for call, _ in phase.lost} == numbers(stage, leaving)
        assert_only_they_lost(stage, leaving, record_property)


def test_a_batch_removes_them_at_once(stage: Stage, record_property: Record) -> None:
    leaving = stage.crowd.members[-LEAVING:]
    with stage.attached() as attachment:
        with stage.flowing(record_property) as phase:
            stage.traffic.wait_for_rounds(3)
            results = attachment.batch(*(remove(member.session.session_id) for member in leaving))
            assert not any(result.code for result in results)
            stage.traffic.wait_for_rounds(3)
        assert {call for call, _ in phase.lost} == numbers(stage, leaving)
        assert_only_they_lost(stage, leaving, record_property)


def test_the_stream_breaks_and_the_snapshot_differs(stage: Stage, record_property: Record) -> None:
    """What both have goes on; what only the relay has ends; what only the transceiver has is entered."""
    leaving, staying = stage.crowd.members[50 : 50 + LEAVING], stage.crowd.members
    staying = [member for member in staying if member not in leaving]
    new = stage.crowd.another()
    with stage.flowing(record_property) as phase:
        with stage.client() as relay, relay.attach("crowd"):
            stage.traffic.wait_for_rounds(3)
        stage.traffic.wait_for_rounds(3)
        with stage.client() as relay, relay.attach("crowd") as attachment:
            assert attachment.welcome.sessions == len(stage.crowd.members)
            result = stage.crowd.register(attachment, *staying, new)
            assert result.removed == LEAVING
            stage.traffic.wait_for_rounds(3)
            told = {one.session_id for one in relay.sessions()}
            assert told == {member.session.session_id for member in (*staying, new)}
    assert {call for call, _ in phase.lost} == numbers(stage, leaving)
    assert_only_they_lost(stage, leaving, record_property)
    stage.assert_consistent()


def test_a_transceiver_leaves_for_good(stage: Stage, record_property: Record) -> None:
    leaving, staying = stage.crowd.members[100 : 100 + LEAVING], stage.crowd.members
    staying = [member for member in staying if member not in leaving]
    with stage.client() as relay, relay.attach("crowd") as attachment:
        stage.crowd.register(attachment, *staying)
        with relay.attach("leaving") as other:
            stage.crowd.register(other, *leaving)
            stage.crowd.bind()
            stage.traffic.connect(stage.crowd.legs())
            with stage.traffic.flowing() as phase:
                stage.traffic.wait_for_rounds(3)
            assert phase.is_whole(), phase
        with stage.flowing(record_property) as phase:
            gone = {member.session.session_id for member in leaving}
            wait_for(lambda: gone.isdisjoint(one.session_id for one in relay.sessions()), "it is gone", 15)
            stage.traffic.wait_for_rounds(3)
        assert {call for call, _ in phase.lost} == numbers(stage, leaving)
        assert_only_they_lost(stage, leaving, record_property)


class Talk(threading.Thread):
    """Numbered packets both ways of a call. `number`: of the last one that may have been sent."""

    def __init__(self, made: Call) -> None:
        super().__init__(name="talk")
        self._call = made
        self._ending = threading.Event()
        self.number = 0

    def run(self) -> None:
        while not self._ending.wait(0.0005):
            self.number += 1
            data = bytes([RTP]) + self.number.to_bytes(4, "big") + bytes(100)
            self._call.client.sendto(data, self._call.vip)
            self._call.transceiver.sendto(data, self._call.peer)

    def end(self) -> None:
        self._ending.set()
        self.join()

    def arrived(self) -> list[int]:
        """The highest number that has arrived at the transceiver, and at the client."""
        highest = []
        for receiver in (self._call.transceiver, self._call.client):
            receiver.setblocking(False)
            numbers = [0]
            try:
                while True:
                    numbers.append(int.from_bytes(receiver.recv(2048)[1:5], "big"))
            except BlockingIOError:
                highest.append(max(numbers))
        return highest


def test_nothing_is_forwarded_after_the_answer(stage: Stage, record_property: Record) -> None:
    """Also by flows that were bound a moment before: the daemon has not come across them yet."""
    unseen = 0
    with stage.attached() as attachment:
        for _ in range(TRIES):
            with call(stage.site, attachment, 4) as made:
                made.bind(4)
                talk = Talk(made)
                talk.start()
                wait_for(lambda talk=talk: talk.number > 2, "it talks")  # type: ignore[misc]
                assert attachment.remove(made.session_id).code == 0
                last = talk.number
                wait_for(lambda talk=talk, last=last: talk.number > last + MORE, "it goes on")  # type: ignore[misc]
                talk.end()
                time.sleep(0.02)  # what is under way arrives
                assert max(talk.arrived()) <= last
                events = [one.flow_bound for one in attachment.seen_events() if one.HasField("flow_bound")]
                unseen += all(one.flow.session_id != made.session_id for one in events)
    record_property("unseen", unseen)
    print(f"{unseen} of {TRIES} flows were removed before a scan had seen them")
    assert unseen
