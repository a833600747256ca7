# SPDX-License-Identifier: Apache-2.0
"""vagrant/fleet.json in emulated machines: a call through each of two relays, and then without one."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.lab.host import LabError
from tests.machines import acts
from tests.machines.machine import Machine

TRANSCEIVER = "of-relay"
REGIONS = {"relay": "eu", "relay-2": "us"}
KEYS = [1]
ATTACH_TIMEOUT = 300.0  # seconds, as scripts/provision has it
# As long as it takes to stop a daemon and remove its program, emulated; more at each attempt.
CALL_SECONDS = 90
_MEDIA = "forward_to_client"


def status(relay: Machine) -> dict[str, Any]:
    """What `earshot fleet status` shows there, once both know each other; raises `LabError` if it is not so.

    The machines have no Redis: each relay knows of itself and of its transceivers alone, and calls of the
    fleet by their ufrags.
    """
    deadline = time.monotonic() + ATTACH_TIMEOUT
    while True:
        shown: dict[str, Any] = json.loads(relay.run("earshot fleet status -o json"))
        there = {one["transceiver"]: one["state"] for one in shown["transceivers"]}
        if there == {TRANSCEIVER: "attached"}:
            break
        if time.monotonic() > deadline:
            raise LabError(f"{relay.name}: {TRANSCEIVER} is not attached: {shown}")
        time.sleep(3)
    (this,) = shown["relays"]
    expected = {"relay": relay.name, "region": REGIONS[relay.name], "state": "serving", "keys": KEYS}
    if shown["directory"] is not None or {key: this[key] for key in expected} != expected:
        raise LabError(f"{relay.name}: is not {expected}: {shown}")
    print(f"{relay.name}: {json.dumps(shown)}")
    return shown


def call_by_each(
    checkout: Path, relays: Sequence[Machine], client: Machine, vips: Mapping[str, str], line: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """A call by each relay, whose client cannot reach the other; what became of it, by the relay's name.

    Where a client reaches both it may take either, emulated: whose answer is first is chance.

    Args:
        relays: two.
        vips: addresses of both, by name.
        line: what scripts/provision gets to call.
    """
    done = {}
    for relay, other in (relays, reversed(relays)):
        with cut(client, vips[other.name]):
            done[relay.name] = _call_by(relay, checkout, client, line)
    return done


def take_away(
    checkout: Path, relays: Sequence[Machine], client: Machine, vips: Mapping[str, str], line: Sequence[str]
) -> dict[str, Any]:
    """The first relay's daemon and program are removed while a call goes by the other: it goes on, and the
    next one comes about, whose client may try both."""
    gone, left = relays
    with cut(client, vips[gone.name]):
        done: dict[str, Any] = {"in_call": _remove_in_call(gone, left, client, line)}
    done["after"] = _call_by(left, checkout, client, line)
    return done


def _remove_in_call(gone: Machine, left: Machine, client: Machine, line: Sequence[str]) -> dict[str, Any]:
    for attempt in range(1, acts.ATTEMPTS + 1):
        with acts.calling(left, client, line, attempt * CALL_SECONDS) as call:
            began = time.monotonic()
            gone.run("systemctl stop earshotd && earshot datapath remove --yes 2>&1")
            took = round(time.monotonic() - began, 1)
            in_call = call.goes_on() and acts.sound_arrives(client)
        done = {"seconds": took, "in_call": in_call, "attempt": attempt, "calls": call.results}
        print(f"  {done}")
        if in_call and call.verified:
            return done
        gone.run(f"systemctl start earshotd; {acts.UNTIL_RUNNING}", timeout=acts.PROVISION_TIMEOUT)
    raise LabError(f"the call by {left.name} did not survive what was done to {gone.name}")


def _call_by(relay: Machine, checkout: Path, client: Machine, line: Sequence[str]) -> dict[str, Any]:
    """A call, whose media that relay has carried."""
    before = _media(relay)
    (call,) = acts.provision(checkout, client, [line])
    carried = _media(relay) - before
    if carried < call["packets_received"]:
        raise LabError(f"{relay.name} has carried {carried} packets of a call that has had {call}")
    return {**call, "relay": relay.name, "carried": carried}


def _media(relay: Machine) -> int:
    shown = json.loads(relay.run("earshot stats -o json"))
    return int(shown["reasons"][_MEDIA]["packets"])


@contextmanager
def cut(client: Machine, address: str) -> Iterator[None]:
    """In the block nothing of the client's reaches that address."""
    chain = f"chain output {{ type filter hook output priority 0; ip daddr {address} drop; }}"
    client.run(f"nft 'table inet cut {{ {chain}; }}'")
    try:
        yield
    finally:
        client.run("nft delete table inet cut")
