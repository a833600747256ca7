# SPDX-License-Identifier: Apache-2.0
"""The lab itself: hosts reach each other, and nothing of it outlives it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys

import pytest

from tests.lab.host import LabError
from tests.lab.leftovers import labs, sweep
from tests.lab.netns import Lab

pytestmark = [pytest.mark.root, pytest.mark.netns]

KILLED = """
import sys, time
from tests.lab.netns import Lab
with Lab() as lab:
    lab.popen(lab.host("a"), "sleep", "60")
    (lab.pins / "x").mkdir(parents=True)
    print(lab.prefix, flush=True)
    time.sleep(60)
"""


def start_lab() -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    prefix = process.stdout.readline().strip()
    assert prefix in labs()
    return process, prefix


@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "192.0.2.2"), (socket.AF_INET6, "2001:db8::2")]
)
def test_hosts_reach_each_other_only_over_their_links(lab: Lab, family: int, address: str) -> None:
    number = len(lab.hosts)
    a, b, c = (lab.host(f"{name}{number}") for name in "abc")
    lab.link(a, b, ["192.0.2.1/24", "2001:db8::1/64"], ["192.0.2.2/24", "2001:db8::2/64"])
    with b.socket(family) as server, a.socket(family) as client, c.socket(family) as stranger:
        server.bind((address, 7))
        client.sendto(b"over a link", (address, 7))
        assert server.recv(100) == b"over a link"
        with pytest.raises(OSError, match="unreachable"):
            stranger.sendto(b"", (address, 7))


def test_a_failed_command_says_why(lab: Lab) -> None:
    host = lab.host("failing")
    with pytest.raises(LabError, match="nowhere"):
        host.ip("link set nowhere up")


def test_an_exception_removes_everything() -> None:
    lab = Lab()

    def fail() -> None:
        with lab:
            lab.popen(lab.host("a"), "sleep", "60")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert lab.prefix not in labs()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_removes_everything(number: signal.Signals) -> None:
    process, prefix = start_lab()
    with process:
        process.send_signal(number)
        process.wait(10)
    assert prefix not in labs()


def test_what_a_killed_lab_left_behind_is_swept() -> None:
    process, prefix = start_lab()
    assert prefix not in sweep()
    with process:
        process.kill()
        process.wait(10)
    assert prefix in labs()
    assert prefix in sweep()
    assert prefix not in labs()
