# SPDX-License-Identifier: Apache-2.0
"""The daemon stops, is killed, stays away, is starved of CPU, and starts again: calls do not notice."""

from __future__ import annotations

import random
import signal
import threading
import time

import grpc
import pytest

from tests.lab.calls import wait_for
from tests.lab.nightly import NIGHTLY
from tests.lab.relay_client import RelayClient
from tests.lab.services import popen_relay, relay_command, relay_target
from tests.netns.raw_stream import add, remove
from tests.reliability.stage import Record, Stage, assert_whole

pytestmark = [pytest.mark.root, pytest.mark.netns]

KILLS = 60 if NIGHTLY else 4
AWAY_SECONDS = 60.0 if NIGHTLY else 1.0
STARVED_SECONDS = 30.0 if NIGHTLY else 3.0
GRACE_SECONDS = 2
A_FEW_SWEEPS = 1.5  # seconds
CHURN = 400  # sessions in each batch: two slices of work


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stop", "kill"])
def test_the_daemon_goes_away_and_comes_back(
    stage: Stage, number: signal.Signals, record_property: Record
) -> None:
    with stage.flowing(record_property) as phase:
        with stage.attached():
            stage.traffic.wait_for_rounds(10)
            stage.end(number)
        time.sleep(AWAY_SECONDS)
        stage.start()
        with stage.attached() as attachment:
            assert attachment.welcome.sessions == len(stage.crowd.members)
            stage.traffic.wait_for_rounds(25)
    assert_whole(phase)


@pytest.mark.timeout(30 + 6 * KILLS)
def test_killed_at_any_moment(stage: Stage, record_property: Record) -> None:
    """While it starts, while sessions come and go by the hundred, while flows are scanned and swept."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    ending = threading.Event()
    churning = threading.Thread(target=_churn, args=(stage, ending))
    with stage.flowing(record_property) as phase:
        stage.end()
        churning.start()
        try:
            for _ in range(KILLS):
                stage.daemon = popen_relay(stage.site, "--flow-idle-seconds=2")
                time.sleep(moments.uniform(0.2, 3.0))
                stage.end()
        finally:
            ending.set()
            churning.join()
        stage.start()
        with stage.attached() as attachment:
            assert attachment.welcome.sessions == len(stage.crowd.members)
            stage.traffic.wait_for_rounds(25)
    assert_whole(phase)
    # What the other one has left is gone with its grace, or here and whole: either way nothing is half done.
    stage.assert_consistent()


def _churn(stage: Stage, ending: threading.Event) -> None:
    """Another transceiver, which attaches whenever it can, and adds and removes sessions without a pause."""
    operations = [add(f"c{number}", f"churn{number:04}") for number in range(CHURN)]
    operations += [remove(f"c{number}") for number in range(CHURN)]
    while not ending.is_set():
        try:
            with RelayClient(relay_target(stage.site)) as relay, relay.attach("churn") as attachment:
                attachment.snapshot()
                while not ending.is_set():
                    attachment.batch(*operations)
        except (grpc.RpcError, ConnectionError):
            ending.wait(0.05)


def test_starved_of_cpu(stage: Stage, record_property: Record) -> None:
    """For longer than flows may be idle and, for a transceiver that has just left, than its grace."""
    with stage.flowing(record_property) as phase:
        stage.end()
        stage.start("--flow-idle-seconds=1", f"--grace-seconds={GRACE_SECONDS}")
        with stage.attached():
            stage.traffic.wait_for_rounds(5)
        stage.daemon.send_signal(signal.SIGSTOP)
        time.sleep(STARVED_SECONDS)
        stage.daemon.send_signal(signal.SIGCONT)
        time.sleep(A_FEW_SWEEPS)
        with stage.attached() as attachment:
            assert attachment.welcome.sessions == len(stage.crowd.members)
            stage.traffic.wait_for_rounds(25)
        stage.end()
    assert_whole(phase)


def test_sessions_with_a_time_to_live_outlive_the_daemons_absence(stage: Stage) -> None:
    """Nobody could renew them meanwhile."""
    with stage.client() as relay, relay.attach("other") as attachment:
        (result,) = attachment.batch(add("short", "shortlived", ttl_seconds=1))
        assert result.code == 0
        stage.end()
    time.sleep(2.5)
    stage.start(f"--grace-seconds={GRACE_SECONDS}")
    time.sleep(A_FEW_SWEEPS)
    with stage.attached(), stage.client() as relay, relay.attach("other") as attachment:
        assert attachment.welcome.sessions == 1
        wait_for(lambda: all(one.transceiver == "crowd" for one in relay.sessions()), "it expires", 20)
    stage.end()


def test_another_clock_is_refused(stage: Stage, record_property: Record) -> None:
    """In a time namespace every flow would look a day old: it says so, and harms nobody."""
    with stage.attached(), stage.flowing(record_property) as phase:
        stage.end()
        command = ("unshare", "--time", "--fork", "--monotonic=86400", *relay_command(stage.site))
        refused = stage.lab.popen(stage.site.relay, *command, log="earshotd")
        assert refused.wait(20) == 1
        stage.start()
        stage.traffic.wait_for_rounds(5)
    assert "time namespace" in stage.log()
    assert_whole(phase)
