# SPDX-License-Identifier: Apache-2.0
"""`earshot top` on a terminal of its own, whose screen can be read."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable

import pyte

from tests.lab.services import BIN
from tests.lab.topology import Site

FRAME_SECONDS = 0.1  # without a word: the frame is there as a whole


def _environment() -> dict[str, str]:
    """Without the size of another terminal, which processes have that pytest-xdist starts."""
    return {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")} | {
        "TERM": "xterm-256color"
    }


class Terminal:
    """One in the relay host.

    Attributes:
        screen: what it shows.
        process: the command.
        master: the terminal's other end.
    """

    def __init__(self, site: Site, columns: int, lines: int, *options: str) -> None:
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self.master, slave = pty.openpty()
        self._size(columns, lines)
        self.process = subprocess.Popen(
            site.relay.command(str(BIN / "earshot"), "top", *options, "--pin-path", str(site.lab.pins)),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=_environment(),
        )
        os.close(slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        self.screen.resize(lines, columns)
        self._size(columns, lines)
        self.process.send_signal(signal.SIGWINCH)

    def until(
        self, condition: Callable[[list[str]], object], what: str, traffic: Callable[[], None]
    ) -> list[str]:
        """Reads what it shows until that is so, and returns it; calls go on meanwhile.

        It is looked at when nothing more has come for a moment: a frame comes in pieces.
        """
        begun = read = time.monotonic()
        while True:
            traffic()
            if select.select([self.master], [], [], 0.02)[0]:
                self._stream.feed(os.read(self.master, 65536))
                read = time.monotonic()
            elif time.monotonic() - read > FRAME_SECONDS and condition(shown := list(self.screen.display)):
                return shown
            assert time.monotonic() - begun < 30, what + "\n" + "\n".join(self.screen.display)

    def status(self) -> int:
        """Of the process, once it has ended; what it still says is taken meanwhile."""
        with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
            while select.select([self.master], [], [], 30)[0] and os.read(self.master, 65536):
                pass
        return self.process.wait(30)

    def _size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
