# SPDX-License-Identifier: Apache-2.0
"""What is done with the machines, and what has to be true then; `LabError` is raised where it is not."""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.lab.host import LabError
from tests.machines.machine import Machine

# What a machine gets of the checkout, as with Vagrant, in the same place.
SHARED = ("scripts", "tests/__init__.py", "tests/lab", "build/site")
SHARED_AT = "/vagrant"
# An emulated host is some thirty times as slow as the one under it, and that one may be busy.
PROVISION = f"EARSHOT_LAB_PATIENCE=6 {SHARED_AT}/scripts/provision"
PROVISION_TIMEOUT = 900.0
# Likewise, of a transceiver: nothing here is about speed.
PATIENT = ("SETUP_TIMEOUT=120", "RELAY_TIMEOUT=60", "MAX_LOAD=1")
FLOW_TIMEOUT = 300.0
# An emulated host that is also busy gets its sound late, now and then.
ATTEMPTS = 3


def provision(checkout: Path, machine: Machine, lines: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """Runs scripts/provision with each line of arguments; returns what became of calls, if it placed any."""
    machine.put(checkout, SHARED, SHARED_AT)
    calls: list[dict[str, Any]] = []
    for line in lines:
        if line[0] == "transceiver":
            line = [*line, *(word for setting in PATIENT for word in ("--set", setting))]
        print(f"{machine.name}: provision {shlex.join(line)}")
        for attempt in range(1, ATTEMPTS + 1):
            try:
                said = machine.run(f"{PROVISION} {shlex.join(line)} 2>&1", timeout=PROVISION_TIMEOUT)
                break
            except LabError as error:
                if line[0] != "client" or attempt == ATTEMPTS:
                    raise
                print(f"attempt {attempt}: {error}")
        print("\n".join(f"  {text}" for text in said.splitlines()))
        if line[0] == "client":
            calls += [{**call, "attempt": attempt} for call in _json_in(said)["calls"]]
    return calls


def inspect_relay(relay: Machine, calls: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Its state: that XDP has carried the calls, and that systemd holds earshotd as it should."""
    status = json.loads(relay.run("earshot datapath status -o json"))
    stats = json.loads(relay.run("earshot stats -o json"))
    reasons = {name: each["packets"] for name, each in stats["reasons"].items() if each["packets"]}
    for way in ("forward_to_transceiver", "forward_to_client"):
        if reasons.get(way, 0) < min(call["packets_sent"] for call in calls):
            raise LabError(f"{relay.name}: the call did not go by XDP: {reasons}")
    found = {
        "links": {link["interface"]: link["mode"] for link in status["links"]},
        "drivers": relay.run("for i in eth1 eth2; do ethtool -i $i | sed -n 's/^driver: //p'; done").split(),
        "kernel": relay.run("uname -r").strip(),
        "reasons": reasons,
        "map_bytes": status["memory_bytes"],
        "unit": unit(relay, "earshotd"),
    }
    print(f"{relay.name}: {json.dumps(found)}")
    return found


def inspect_transceiver(transceiver: Machine) -> dict[str, Any]:
    return unit(transceiver, "earshot-transceiver@of-relay")


def unit(machine: Machine, name: str) -> dict[str, Any]:
    """How systemd sees a service that has to run, and how exposed it finds it."""
    shown = machine.run(
        f"systemctl show {name} -p ActiveState,SubState,Type,User,WatchdogUSec,NRestarts,MainPID"
    )
    state = dict(line.split("=", 1) for line in shown.splitlines())
    if (state["ActiveState"], state["SubState"]) != ("active", "running"):
        raise LabError(f"{machine.name}: {name} does not run: {state}")
    # Its last line is "→ Overall exposure level for NAME: 1.8 OK"
    said = machine.run(f"systemd-analyze security --no-pager {name} 2>&1 | tail -n 1").strip()
    verified = machine.run(f"systemd-analyze verify {name}.service 2>&1 || true").strip()
    return {**state, "exposure": said.rpartition(": ")[2], "verify": verified}


def restart_in_call(relay: Machine, client: Machine, line: Sequence[str]) -> list[dict[str, Any]]:
    """Calls, in which the daemon is restarted in all ways, then its package installed again, then removed."""
    return [_survive(each, relay, client, line) for each in _HAPPENINGS]


def _survive(happenings: Happenings, relay: Machine, client: Machine, line: Sequence[str]) -> dict[str, Any]:
    """A call that is still there after each, and comes back as it went out; a longer one at each attempt."""
    for attempt in range(1, ATTEMPTS + 1):
        done = _call_through(happenings, relay, client, line, attempt * happenings.seconds)
        if done["verified"] and all(each["in_call"] for each in done["happened"]):
            return {**done, "attempt": attempt}
        print(f"attempt {attempt}: {done}")
        relay.run(f"{_INSTALL}; systemctl start earshotd; {UNTIL_RUNNING}", timeout=PROVISION_TIMEOUT)
    raise LabError("the call did not survive what was done to the relay's daemon")


def _call_through(
    happenings: Happenings, relay: Machine, client: Machine, line: Sequence[str], seconds: int
) -> dict[str, Any]:
    """A call of so many seconds, and what happens at the relay meanwhile."""
    happened = []
    with calling(relay, client, line, seconds) as call:
        attached = relay.run(_PROGRAMS)
        for name, script in happenings.steps:
            began = time.monotonic()
            said = relay.run(script, timeout=PROVISION_TIMEOUT)
            took = round(time.monotonic() - began, 1)
            in_call = call.goes_on() and sound_arrives(client)
            happened.append({"what": name, "seconds": took, "in_call": in_call, "said": _own_lines(said)})
            print(f"  {happened[-1]}")
            if len(relay.run(_PROGRAMS).splitlines()) != len(attached.splitlines()):
                raise LabError(f"{name}: the program is not attached any more; before: {attached}")
    return {"happened": happened, "verified": call.verified, "calls": call.results}


def sound_arrives(client: Machine) -> bool:
    """Whether packets come to the client, from the only one that sends any to that link of it: the relay."""
    counted = []
    for _ in range(2):
        counted.append(int(client.run("cat /sys/class/net/eth1/statistics/rx_packets")))
        time.sleep(6)
    return counted[1] - counted[0] > 20


class Happenings(NamedTuple):
    """What happens in a call of so many seconds at first: names, and shell scripts for the relay."""

    seconds: int
    steps: tuple[tuple[str, str], ...]


class Calling:
    """A call that goes on; `verified` and `results` once it is over."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.verified = False
        self.results: list[dict[str, Any]] = []

    def goes_on(self) -> bool:
        return self._process.poll() is None

    def finish(self, timeout: float) -> None:
        said = self._process.communicate(timeout=timeout)[0].decode()
        self.verified = self._process.returncode == 0
        self.results = _json_in(said)["calls"]


@contextlib.contextmanager
def calling(relay: Machine, client: Machine, line: Sequence[str], seconds: int) -> Iterator[Calling]:
    """A call in the block, which begins once its flow is there, and ends with the call."""
    script = f"{PROVISION} {shlex.join(line)} --seconds {seconds} 2>&1"
    with client.popen(script) as process:
        try:
            deadline = time.monotonic() + FLOW_TIMEOUT
            while '"live"' not in relay.run("earshot flow list -o json"):
                if process.poll() is not None or time.monotonic() > deadline:
                    process.terminate()
                    said = process.communicate(timeout=60)[0].decode()
                    raise LabError(f"{relay.name}: the call has no flow; it says: {said}")
                time.sleep(3)  # a look takes the relay's processor for seconds
            call = Calling(process)
            yield call
            call.finish(seconds + PROVISION_TIMEOUT)
        finally:
            if process.poll() is None:
                process.terminate()


# One line for each link that has a program.
_PROGRAMS = "ip -details link show | grep -o 'prog/xdp id [0-9]*' || true"
UNTIL_RUNNING = "for i in $(seq 120); do systemctl is-active -q earshotd && exit; sleep 1; done; exit 1"
_INSTALL = f"dpkg -i {SHARED_AT}/build/site/*.deb >/tmp/dpkg 2>&1 || {{ cat /tmp/dpkg >&2; exit 1; }}"
_HAPPENINGS = (
    Happenings(
        180,
        (
            ("systemctl reload", "systemctl reload earshotd"),
            ("systemctl restart", "systemctl restart earshotd"),
            ("kill -9", f"systemctl kill -s KILL --kill-whom=main earshotd; sleep 1; {UNTIL_RUNNING}"),
        ),
    ),
    Happenings(150, (("package installed again", f"{_INSTALL}; {UNTIL_RUNNING}"),)),
    Happenings(
        90, (("package removed", "DEBIAN_FRONTEND=noninteractive apt-get remove -y -qq earshot 2>&1"),)
    ),
)


def purge(relay: Machine, client: Machine, address: str) -> dict[str, Any]:
    """The package is purged: nothing is left in the kernel, and the host's own network is as it was."""
    said = relay.run("DEBIAN_FRONTEND=noninteractive apt-get purge -y -qq earshot 2>&1")
    left = {
        "pins": relay.run("ls -A /sys/fs/bpf").split(),
        "programs": relay.run(_PROGRAMS).splitlines(),
        "processes": relay.run("pgrep -af '[e]arshot' || true").splitlines(),
    }
    if any(left.values()):
        raise LabError(f"{relay.name}: purging has left {left}")
    client.run(f"ping -q -c 2 -W 10 {address}")
    return {"said": _own_lines(said), **left}


def _own_lines(said: str) -> list[str]:
    """What the package's scripts say of themselves."""
    return [text for text in said.splitlines() if text.startswith("earshot:")]


def _json_in(said: str) -> Any:
    """The object that begins and ends at the start of a line."""
    try:
        start, end = said.index("\n{\n") + 1, said.rindex("\n}") + 2
        return json.loads(said[start:end])
    except ValueError:
        raise LabError(f"no result of calls in: {said}") from None
