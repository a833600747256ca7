# SPDX-License-Identifier: Apache-2.0
"""A host of the lab: a network namespace, and what can be done in it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from pyroute2 import netns

NETNS = Path("/run/netns")


class LabError(Exception):
    """A command of the lab failed, or something did not happen in time."""


def run(argv: Sequence[str], *, stdin: str | None = None, timeout: float = 30) -> str:
    """Standard output of a command. Raises `LabError` with what it said if it fails."""
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode != 0:
        said = done.stderr.strip() or done.stdout.strip()
        raise LabError(f"{' '.join(argv)}: exit {done.returncode}: {said}")
    return done.stdout


class Host:
    """One network namespace. It shares the file system and all else with the machine."""

    def __init__(self, prefix: str, name: str, is_relay: bool) -> None:
        self.name = name
        self.is_relay = is_relay
        self.path = NETNS / f"{prefix}-{name}"
        run(["ip", "netns", "add", self.path.name])
        # Duplicate address detection would keep an address unusable for a second.
        self.sysctl("net.ipv6.conf.all.accept_dad", 0)
        self.sysctl("net.ipv6.conf.default.accept_dad", 0)
        self.ip("link set lo up")

    def command(self, *argv: str) -> list[str]:
        """`argv`, to be run in this host. Not by `ip netns exec`: that hides bpffs."""
        return ["nsenter", f"--net={self.path}", "--", *argv]

    def run(self, *argv: str, stdin: str | None = None, timeout: float = 30) -> str:
        """Standard output of a command in this host; raises `LabError` if it fails."""
        return run(self.command(*argv), stdin=stdin, timeout=timeout)

    def ip(self, *lines: str) -> None:
        """Runs commands of iproute2, without the leading `ip`."""
        run(["ip", "-n", self.path.name, "-batch", "-"], stdin="\n".join(lines))

    def nft(self, rules: str) -> None:
        self.run("nft", "-f", "-", stdin=rules)

    def sysctl(self, name: str, value: int) -> None:
        with self.inside():
            Path("/proc/sys", name.replace(".", "/")).write_text(str(value))

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """The calling thread is in this host while the block runs: never await in it."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            netns.setns(str(self.path))
            try:
                yield
            finally:
                netns.setns(home)
        finally:
            os.close(home)

    def socket(self, family: int, kind: int = socket.SOCK_DGRAM, timeout: float = 5) -> socket.socket:
        """A socket that lives in this host, whoever uses it."""
        with self.inside():
            made = socket.socket(family, kind)
        made.settimeout(timeout)
        return made
