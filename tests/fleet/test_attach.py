# SPDX-License-Identifier: Apache-2.0
"""A transceiver that knows all relays of a directory: attached to one, and to the next one in time.

Relays, Redis, transceiver and calls are real. tests/unit/test_transceiver_places.py has the cases.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from control.cli.daemon_client import connected
from tests.fleet.relays import FLAGS, RELAYS, SECONDS, Relays
from tests.lab.calls import wait_for
from tests.lab.fleet import TRANSCEIVERS, Fleet
from tests.lab.netns import stop
from tests.lab.services import BIN, start, start_calls_at

pytestmark = [pytest.mark.root, pytest.mark.netns, pytest.mark.e2e]

NAME = "voice-1"
CLIENTS = "10.99.0.20"
HTTP = f"{TRANSCEIVERS}:8080"


def attachments(fleet: Fleet) -> int:
    """How many there were, as the relays' logs have it."""
    begun = rf"event=attached transceiver={NAME}\b"
    return sum(len(re.findall(begun, fleet.log(number))) for number in RELAYS)


def holder(fleet: Fleet, asked: int) -> int | None:
    """The relay that it is attached to, as one has heard; None while that one has not heard its name."""
    with connected(fleet.socket(asked)) as daemon:
        known = daemon.fleet().transceivers
    at = [one.relay for one in known if one.transceiver == NAME and one.attached]
    return next((int(name.removeprefix("relay-")) for name in at if name.startswith("relay-")), None)


@pytest.fixture(scope="module")
def transceiver(fleet: Fleet) -> Iterator[subprocess.Popen[bytes]]:
    fleet.hub.ip(f"address add {CLIENTS}/32 dev lo")
    process = start(
        fleet.lab,
        fleet.hub,
        str(BIN / "earshot-transceiver"),
        f"--name={NAME}",
        *(f"--relay={fleet.target(number)}" for number in RELAYS),
        f"--http={HTTP}",
        f"--media-address={TRANSCEIVERS}",
        "--max-load=1",
    )
    yield process
    stop(process)


def log(fleet: Fleet) -> str:
    return fleet.lab.log("earshot-transceiver").read_text()


def call(fleet: Fleet, seconds: int, result: Path) -> subprocess.Popen[bytes]:
    flags = ("--local-address", CLIENTS)
    return start_calls_at(fleet.lab, fleet.hub, f"http://{HTTP}/whip", 1, seconds, result, *flags)


def assert_whole(calling: subprocess.Popen[bytes], result: Path) -> None:
    assert calling.wait(90) == 0
    (outcome,) = json.loads(result.read_text())["calls"]
    said: dict[str, Any] = outcome
    assert said["error"] is None
    assert said["audio_verified"]
    assert said["data_channel_verified"]


def test_it_goes_to_the_next_relay_in_a_call_and_never_round(
    fleet: Fleet, relays: Relays, transceiver: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    wait_for(lambda: log(fleet).count("event=relay_standby") == 2, "two stand by", SECONDS)
    assert attachments(fleet) == 1
    wait_for(lambda: holder(fleet, 1) is not None, "attached to one", SECONDS)
    first = holder(fleet, 1)
    assert first is not None
    others = [number for number in RELAYS if number != first]

    fleet.route_clients(first)
    calling = call(fleet, 5, tmp_path / "call")
    wait_for(lambda: len(relays.clients[first].flows()) == 1, "a flow", SECONDS)
    fleet.kill(first)
    wait_for(lambda: holder(fleet, others[0]) in others, "attached to another one", SECONDS)
    second = holder(fleet, others[0])
    assert second is not None
    # When it is back it stands by.
    standing_by = log(fleet).count("event=relay_standby")
    fleet.start(first, *FLAGS)
    wait_for(lambda: log(fleet).count("event=relay_standby") > standing_by, "stands by", SECONDS)
    assert_whole(calling, tmp_path / "call")
    moved = re.search(rf"event=relay_attached relay=relay-{second} .*\bsessions=(\d+)", log(fleet))
    assert moved is not None
    assert moved[1] == "1", "in the call"
    relays.agree(NAME)

    # Calls come by it as by any other.
    assert_whole(call(fleet, 1, tmp_path / "later"), tmp_path / "later")
    wait_for(lambda: holder(fleet, first) == second, "it stays where it is", SECONDS)
    assert attachments(fleet) == 2
    relays.agree(NAME)

    with connected(fleet.socket(second)) as daemon:
        daemon.drain()
        wait_for(lambda: holder(fleet, first) not in (second, None), "left the one that drains", SECONDS)
        daemon.undrain()
    assert log(fleet).count("event=relay_left") == 1
    assert attachments(fleet) == 3
    assert transceiver.poll() is None


@pytest.mark.nightly
def test_it_leaves_a_relay_that_freezes_and_that_one_believes_it_when_it_wakes(
    fleet: Fleet, relays: Relays, transceiver: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    """Nothing is asked of the relay meanwhile: that it is gone is found by looking."""
    wait_for(lambda: holder(fleet, 1) is not None, "attached to one", SECONDS)
    first = holder(fleet, 1)
    assert first is not None
    others = tuple(number for number in RELAYS if number != first)
    before = attachments(fleet)
    fleet.route_clients(others[0])
    calling = call(fleet, 25, tmp_path / "call")
    wait_for(lambda: len(relays.clients[others[0]].flows()) == 1, "a flow", SECONDS)
    fleet.daemons[first].send_signal(signal.SIGSTOP)
    try:
        wait_for(lambda: holder(fleet, others[0]) in others, "attached to another one", SECONDS)
    finally:
        fleet.daemons[first].send_signal(signal.SIGCONT)
    second = holder(fleet, others[0])
    wait_for(lambda: holder(fleet, first) == second, "it has heard of it", SECONDS)
    wait_for(lambda: len(relays.have(first, NAME)) == 1, "it knows the call", SECONDS)
    assert_whole(calling, tmp_path / "call")
    relays.agree(NAME)
    assert attachments(fleet) == before + 1
    assert transceiver.poll() is None
