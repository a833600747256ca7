# SPDX-License-Identifier: Apache-2.0
"""Notifications to the service manager, sd_notify(3): one datagram each, of lines ``NAME=value``.

The manager says where it listens ($NOTIFY_SOCKET) and how often it wants to hear that all is well
($WATCHDOG_USEC, for the process $WATCHDOG_PID). Without a manager all of this does nothing.

Nothing that is said here may harm who says it: a manager that is not there any more, or does not read, is
not waited for, and not an error.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator, MutableMapping

_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Manager:
    """The service manager, as far as it wants to be told.

    Attributes:
        watchdog_seconds: within which it has to hear `alive` again and again; None: it does not ask for it.
    """

    def __init__(self, path: str = "", watchdog_seconds: float | None = None) -> None:
        """`path` of its socket, ``@`` before an abstract one; empty: there is none."""
        self.watchdog_seconds = watchdog_seconds if path else None
        # A name in the abstract namespace begins with a zero byte.
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        self._socket = (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if path else None
        )
        self._status = ""

    @classmethod
    def of(cls, environment: MutableMapping[str, str]) -> Manager:
        """By the environment, which is then rid of it: what we start is not the service."""
        path, microseconds, pid = (environment.pop(name, "") for name in _VARIABLES)
        asked = microseconds.isascii() and microseconds.isdigit() and pid in ("", str(os.getpid()))
        return cls(path, int(microseconds) / 1e6 if asked and int(microseconds) else None)

    def ready(self) -> None:
        """Starting, or taking over another configuration, is done."""
        self._send("READY=1")

    def stopping(self) -> None:
        """From now on it ends."""
        self._send("STOPPING=1")

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """The block takes over another configuration; however it ends, it is over then."""
        # The time lets the manager tell which reload this is; systemd.service(5), Type=notify-reload.
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        try:
            yield
        finally:
            self.ready()

    def status(self, text: str) -> None:
        """One line for people, shown by `systemctl status`; sent when it is another one."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def alive(self) -> None:
        """Once within `watchdog_seconds`, or it kills us."""
        if self.watchdog_seconds is not None:
            self._send("WATCHDOG=1")

    def close(self) -> None:
        """Says nothing any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, text: str) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.sendto(text.encode(), socket.MSG_DONTWAIT, self._address)


class Pulse:
    """What the watchdog hears: that all parts of a daemon have come round, not that one of them has.

    A part that hangs, or a loop that does, lets it fall silent.
    """

    def __init__(self, manager: Manager, parts: frozenset[str]) -> None:
        self._manager = manager
        self._parts = parts
        self._heard: set[str] = set()

    def beat(self, part: str) -> None:
        """One of the parts has come round."""
        self._heard.add(part)
        if self._heard >= self._parts:
            self._heard.clear()
            self._manager.alive()
