# SPDX-License-Identifier: Apache-2.0
"""Would the tests beside this one notice? A relay that loses packets on purpose, by a known number."""

from __future__ import annotations

import os

import numpy as np
import pytest

from control import abi, libbpf
from control.libbpf import BpfObject
from control.maps import MappedArray
from tests.lab.traffic import link_index
from tests.reliability.stage import Record, Stage, assert_whole

pytestmark = [pytest.mark.root, pytest.mark.netns]


def test_nothing_is_lost_when_nothing_happens(stage: Stage, record_property: Record) -> None:
    with stage.attached(), stage.flowing(record_property) as phase:
        stage.traffic.wait_for_rounds(25)
    assert_whole(phase)
    assert phase.sent[0] >= 25 * len(stage.crowd.members)


def test_a_relay_without_its_program_is_noticed(stage: Stage) -> None:
    """On one link another program lets packets pass for a moment: the way down is lost, and only it."""
    index = link_index(stage.site.relay, stage.site.transceiver.name)
    link = libbpf.get_pinned(stage.lab.pins / f"link_{index}")
    ours = libbpf.open_program(libbpf.link_info(link).program_id)
    try:
        with BpfObject(stage.lab.dir / "pass.o") as other, stage.attached():
            other.load()
            with stage.traffic.flowing() as phase:
                stage.traffic.wait_for_rounds(5)
                libbpf.update_link(link, other.program_fd("pass"))
                stage.traffic.wait_for_rounds(5)
                libbpf.update_link(link, ours)
                stage.traffic.wait_for_rounds(5)
    finally:
        libbpf.update_link(link, ours)
        os.close(link)
        os.close(ours)
    assert {way for _, way in phase.lost} == {"down"}
    assert len(phase.lost) == len(stage.crowd.members)
    assert min(phase.lost.values()) >= 4
    assert phase.received == [phase.sent[0], phase.sent[1] - sum(phase.lost.values())]
    assert not phase.strange
    with pytest.raises(pytest.fail.Exception, match="lost"):
        assert_whole(phase)


def test_a_packet_to_the_wrong_neighbour_is_noticed(stage: Stage) -> None:
    """It arrives, but a switch would have taken it elsewhere."""
    hops = MappedArray(libbpf.get_pinned(stage.lab.pins / "hops_v1"), abi.HOP)
    index = link_index(stage.site.relay, stage.site.client.name)
    towards_client = np.flatnonzero(hops.array["ifindex"] == index)
    right = hops.array["dmac"][towards_client].copy()
    try:
        with stage.attached(), stage.traffic.flowing() as phase:
            stage.traffic.wait_for_rounds(3)
            hops.array["dmac"][towards_client] = np.void(b"\x02noone")
            stage.traffic.wait_for_rounds(3)
            hops.array["dmac"][towards_client] = right
    finally:
        hops.array["dmac"][towards_client] = right
        hops.close()
    assert {way for _, way in phase.lost} == {"down"}
    assert phase.strange == sum(phase.lost.values()) > 0
