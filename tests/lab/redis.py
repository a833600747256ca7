# SPDX-License-Identifier: Apache-2.0
"""A real redis-server for a test, on a Unix socket of its own or in a host of a lab."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.lab.host import Host, LabError, run
from tests.lab.netns import stop

SECONDS = 30.0


class RedisServer:
    """redis-server on TCP, on loopback or at an address of a host; it keeps nothing on disk.

    It can be killed and started again, empty, at the same place.
    """

    def __init__(
        self, folder: Path, *flags: str, host: Host | None = None, address: str = "127.0.0.1", port: int = 0
    ) -> None:
        self._folder = folder
        self._flags = flags
        self._host = host
        self.address = address
        self.port = port or (6379 if host is not None else free_port())
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://{self.address}:{self.port}/0"

    def start(self) -> None:
        """Returns when it serves; raises LabError."""
        argv: Sequence[str] = (
            "redis-server",
            *("--bind", self.address, "--port", str(self.port), "--protected-mode", "no"),
            *("--save", "", "--appendonly", "no", "--dir", str(self._folder), *self._flags),
        )
        if self._host is not None:
            argv = self._host.command(*argv)
        log = self._folder / "redis.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        deadline = time.monotonic() + SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise LabError(f"redis-server does not serve:\n{log.read_text()[-2000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """At once: what it held is lost."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(SECONDS)

    def stop(self) -> None:
        if self._process is not None:
            stop(self._process)

    def all_keys(self) -> list[str]:
        """All keys there are."""
        said = self.cli("KEYS", "*")
        return said.split()

    def cli(self, *argv: str) -> str:
        """What redis-cli says to a command."""
        command = ["redis-cli", "-h", self.address, "-p", str(self.port), *argv]
        return run(command if self._host is None else self._host.command(*command))

    @property
    def pid(self) -> int:
        """Of the process, to stop it for a while (SIGSTOP)."""
        assert self._process is not None
        return self._process.pid

    def _answers(self) -> bool:
        made = self._host.socket(socket.AF_INET, socket.SOCK_STREAM) if self._host else socket.socket()
        with made:
            made.settimeout(1)
            try:
                made.connect((self.address, self.port))
                made.sendall(b"PING\r\n")
                return made.recv(64).startswith((b"+PONG", b"-NOAUTH"))
            except OSError:
                return False


@contextmanager
def redis_server(folder: Path, *flags: str) -> Iterator[RedisServer]:
    """One on loopback, while the block runs."""
    server = RedisServer(folder, *flags)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
