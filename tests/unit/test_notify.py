# SPDX-License-Identifier: Apache-2.0
"""What is sent to a service manager, by a real socket of the kind that it listens on."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervision.notify import Manager, Pulse


class Listener:
    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{path[1:]}" if path.startswith("@") else path)
        self.socket.setblocking(False)
        self.path = path

    def heard(self) -> list[str]:
        said = []
        while True:
            try:
                said.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return said


@pytest.fixture(params=["a path", "an abstract name"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Listener]:
    path = str(tmp_path / "notify") if request.param == "a path" else f"@earshot-test-{os.getpid()}"
    made = Listener(path)
    yield made
    made.socket.close()


def test_the_life_of_a_service(listener: Listener) -> None:
    environment = {"NOTIFY_SOCKET": listener.path, "WATCHDOG_USEC": "30000000", "HOME": "/"}
    manager = Manager.of(environment)
    assert environment == {"HOME": "/"}  # what it starts is not the service
    assert manager.watchdog_seconds == 30
    manager.status("3 sessions")
    manager.status("3 sessions")
    manager.ready()
    manager.alive()
    manager.stopping()
    assert listener.heard() == ["STATUS=3 sessions", "READY=1", "WATCHDOG=1", "STOPPING=1"]
    manager.close()
    manager.ready()
    assert listener.heard() == []


def test_a_reload_is_over_however_it_ends(listener: Listener) -> None:
    manager = Manager(listener.path)
    with manager.reloading():
        began = listener.heard()
    assert listener.heard() == ["READY=1"]
    (lines,) = (said.splitlines() for said in began)
    assert lines[0] == "RELOADING=1"
    assert lines[1].removeprefix("MONOTONIC_USEC=").isdigit()
    with pytest.raises(ZeroDivisionError), manager.reloading():
        raise ZeroDivisionError
    assert listener.heard()[-1] == "READY=1"
    manager.close()


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({"WATCHDOG_USEC": "2500000"}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": str(os.getpid())}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "1"}, None),  # meant for another process
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_who_is_asked_for_signs_of_life(
    listener: Listener, variables: dict[str, str], seconds: float | None
) -> None:
    manager = Manager.of({"NOTIFY_SOCKET": listener.path, **variables})
    assert manager.watchdog_seconds == seconds
    manager.alive()
    assert listener.heard() == ([] if seconds is None else ["WATCHDOG=1"])
    manager.close()


def test_without_a_manager_or_after_its_end(tmp_path: Path) -> None:
    for manager in (Manager.of({}), Manager(str(tmp_path / "gone"), 30)):
        manager.ready()
        manager.alive()
        with manager.reloading():
            pass
        manager.close()


def test_a_manager_that_does_not_read_is_not_waited_for(listener: Listener) -> None:
    manager = Manager(listener.path, 30)
    for _ in range(2000):  # more than any receive buffer of this system takes
        manager.alive()
    assert 0 < len(listener.heard()) < 2000
    manager.close()


def test_one_part_that_hangs_is_enough_for_silence(listener: Listener) -> None:
    manager = Manager(listener.path, 30)
    pulse = Pulse(manager, frozenset({"scan", "sweep"}))
    for _ in range(3):
        pulse.beat("sweep")
    assert listener.heard() == []
    pulse.beat("scan")
    assert listener.heard() == ["WATCHDOG=1"]
    for _ in range(3):
        pulse.beat("scan")
    assert listener.heard() == []
    manager.close()
