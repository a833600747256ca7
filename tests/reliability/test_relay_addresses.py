# SPDX-License-Identifier: Apache-2.0
"""Relay addresses are added and taken away while calls are at them."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from earshot.relay.v1 import relay_pb2 as pb

from control.cli.options import pinned_maps
from tests.lab.calls import RTP, call, payload, wait_for
from tests.lab.relay_client import Attachment
from tests.lab.topology import IPV4, IPV6
from tests.netns.command import Said
from tests.netns.raw_stream import remove
from tests.reliability.stage import Record, Stage, assert_whole, set_up

pytestmark = [pytest.mark.root, pytest.mark.netns]

USUAL = [IPV4.relay, IPV6.relay]
ADDED, NEXT = "10.20.0.2", "10.20.0.3"
TAKES = 12  # calls, of which each is at one of two addresses by chance


@pytest.fixture
def stage() -> Iterator[Stage]:
    with set_up() as made:
        for address in (ADDED, NEXT):
            made.site.relay.ip(f"address add {address}/24 dev transceiver")
        made.configure()
        made.end()
        made.start()
        yield made


def reload(stage: Stage, **changes: object) -> Said:
    stage.configure(**changes)
    return stage.earshot("datapath", "reload")


def capacity(stage: Stage) -> int:
    with pinned_maps(stage.lab.pins) as datapath:
        return datapath.capacity()


def call_again(stage: Stage, attachment: Attachment) -> None:
    """All calls end, and begin anew: at any of the relay addresses that there are."""
    results = attachment.batch(*(remove(one.session.session_id) for one in stage.crowd.members))
    assert not any(result.code for result in results)
    stage.crowd.register(attachment)
    stage.crowd.bind()
    stage.traffic.connect(stage.crowd.legs())


def calls_at(stage: Stage, address: str) -> set[int]:
    return {number for number, end in enumerate(stage.crowd.relay_ends) if end[0] == address}


def new_ends(stage: Stage, attachment: Attachment) -> set[str]:
    """The relay addresses that some new calls come to be at."""
    ends = set()
    for _ in range(TAKES):
        with call(stage.site, attachment, 4) as made:
            ends.add(made.bind(4)[0])
            made.up(payload(RTP, 100))
            made.down(payload(RTP, 100))
    return ends


def test_an_address_comes_and_goes(stage: Stage, record_property: Record) -> None:
    """Added, it needs larger maps. Taken away, it goes with its last flow, and nobody loses a packet."""
    before = capacity(stage)
    with stage.attached() as attachment:
        with stage.flowing(record_property) as phase:
            said = reload(stage, relay_addresses=[*USUAL, ADDED], max_sessions=100_000)
            assert (said.status, said.err) == (0, "Changed: relay_addresses, max_sessions.\n")
            stage.traffic.wait_for_rounds(5)
            assert new_ends(stage, attachment) == {IPV4.relay, ADDED}
        assert_whole(phase)
        assert capacity(stage) == before // 2 * 3
        call_again(stage, attachment)
        leaving = calls_at(stage, ADDED)
        assert 0 < len(leaving) < len(stage.crowd.members) // 2
        with stage.flowing(record_property) as phase:
            assert reload(stage).status == 0
            assert f"event=relay_address_leaving address={ADDED} flows={len(leaving)} " in stage.log()
            assert new_ends(stage, attachment) == {IPV4.relay}
            stage.traffic.wait_for_rounds(5)
        assert_whole(phase)
    # It is leaving still when the daemon has been away, and comes back where it was if the operator wants.
    with stage.flowing(record_property) as phase:
        stage.end(signal.SIGKILL)
        stage.start()
        with stage.attached() as attachment:
            assert new_ends(stage, attachment) == {IPV4.relay}
            assert reload(stage, relay_addresses=[*USUAL, ADDED]).status == 0
            assert new_ends(stage, attachment) == {IPV4.relay, ADDED}
            assert reload(stage).status == 0
            stage.traffic.wait_for_rounds(5)
    assert_whole(phase)
    with stage.attached() as attachment:
        assert "event=relay_address_gone" not in stage.log()
        gone = [stage.crowd.members[number].session.session_id for number in leaving]
        with stage.flowing(record_property) as phase:
            assert not any(result.code for result in attachment.batch(*map(remove, gone)))
            wait_for(lambda: f"event=relay_address_gone address={ADDED}" in stage.log(), "it is gone", 20)
            # Its place is for the next one: the maps stay as they are.
            larger = stage.log().count("event=maps_enlarged")
            assert reload(stage, relay_addresses=[*USUAL, NEXT]).status == 0
            assert stage.log().count("event=maps_enlarged") == larger
            assert new_ends(stage, attachment) == {IPV4.relay, NEXT}
        assert {number for number, _ in phase.lost} == leaving
    stage.assert_consistent()


def test_an_address_goes_at_once(stage: Stage, record_property: Record) -> None:
    """Without time to drain its flows end, and are told of. Others lose nothing; who asks gets a new one."""
    with stage.attached() as attachment:
        assert reload(stage, relay_addresses=[*USUAL, ADDED]).status == 0
        call_again(stage, attachment)
        leaving = calls_at(stage, ADDED)
        attachment.seen_events()
        with stage.flowing(record_property) as phase:
            stage.traffic.wait_for_rounds(5)
            assert reload(stage, relay_address_drain_seconds=0).status == 0
            heard = [stage.traffic.received(number) for number in leaving]
            stage.traffic.wait_for_rounds(5)
        assert {number for number, _ in phase.lost} == leaving
        assert [stage.traffic.received(number) for number in leaving] == heard
        # Events come before its answer.
        assert attachment.add_session(stage.crowd.another().session).code == 0
        told = [one.flow_ended for one in attachment.seen_events() if one.HasField("flow_ended")]
        removed = [one for one in told if one.reason == pb.FLOW_END_REASON_RELAY_ADDRESS_REMOVED]
        assert {one.flow.relay.address for one in removed} == {ADDED}
        assert len(removed) == len(leaving)
        wait_for(lambda: f"event=relay_address_gone address={ADDED}" in stage.log(), "it is gone", 20)
        stage.crowd.bind()
        stage.traffic.connect(stage.crowd.legs())
        assert not calls_at(stage, ADDED)
        with stage.flowing(record_property) as phase:
            stage.traffic.wait_for_rounds(5)
        assert_whole(phase)


def test_what_a_link_refuses_is_undone(stage: Stage, record_property: Record) -> None:
    """Larger maps are filled, and two links have the program that uses them, when the last one refuses it."""
    site = stage.site
    extra = stage.lab.host("extra")
    stage.lab.link(extra, site.relay, ["198.51.103.10/24"], ["198.51.103.1/24"])
    wanted = {"relay_addresses": [*USUAL, ADDED], "interfaces": [*site.interfaces, "extra"]}
    with stage.attached() as attachment, stage.flowing(record_property) as phase:
        with stage.traffic.listening(site.relay, "extra"):
            said = reload(stage, **wanted)
            assert (said.status, "extra: another XDP program is attached" in said.err) == (1, True), said.err
        assert {pin.name for pin in stage.lab.pins.iterdir()}.isdisjoint({"next", "commit"})
        assert new_ends(stage, attachment) == {IPV4.relay}
        assert reload(stage, **wanted).status == 0
        assert new_ends(stage, attachment) == {IPV4.relay, ADDED}
    assert_whole(phase)
