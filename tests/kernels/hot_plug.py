# SPDX-License-Identifier: Apache-2.0
"""A CPU goes and comes back while calls talk. For the emulated machine alone (scripts/kernel-test): pytest
collects it only where it is named, and it touches no other machine's CPUs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.reliability.stage import Record, assert_whole, set_up

pytestmark = [pytest.mark.root, pytest.mark.netns]

CALLS = 40
RATE = 10.0  # packets a second of each: what an emulated CPU has time for
TIMES = 3
ROUNDS = 15
TIMEOUT = 300.0
ONLINE = Path("/sys/devices/system/cpu/cpu1/online")


def test_a_cpu_goes_and_comes_back(record_property: Record) -> None:
    assert os.uname().nodename == "kernel-test"
    with set_up(calls=CALLS, rate=RATE) as stage:
        with stage.attached(), stage.flowing(record_property) as phase:
            for _ in range(TIMES):
                for state in ("0", "1"):
                    ONLINE.write_text(state)
                    assert ONLINE.read_text().strip() == state
                    stage.traffic.wait_for_rounds(ROUNDS, TIMEOUT)
                    stage.crowd.bind()  # whoever binds goes by what CPUs have for themselves
        assert_whole(phase)
        assert stage.live_flows() == CALLS
