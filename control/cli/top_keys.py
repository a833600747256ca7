# SPDX-License-Identifier: Apache-2.0
"""Keys as they are pressed, and a wait that a key or a new size of the terminal ends."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import termios
import tty
from collections.abc import Iterator
from types import FrameType

# What terminals send (xterm, Linux console), by the name that the view knows.
_SEQUENCES = {
    b"\x1b[A": "up",
    b"\x1bOA": "up",
    b"\x1b[B": "down",
    b"\x1bOB": "down",
    b"\x1b[5~": "page-up",
    b"\x1b[6~": "page-down",
    b"\x1b[H": "home",
    b"\x1b[1~": "home",
    b"\x1bOH": "home",
    b"\x1b[F": "end",
    b"\x1b[4~": "end",
    b"\x1bOF": "end",
    b"\r": "enter",
    b"\n": "enter",
    b"\x7f": "backspace",
    b"\x08": "backspace",
    b"\x1b": "escape",
    b"\x03": "interrupt",
}
_LONGEST = max(map(len, _SEQUENCES))
END = "end-of-input"


def decode(raw: bytes) -> list[str]:
    """Keys in what was read at once. A sequence that is not known is passed over."""
    keys = []
    while raw:
        for size in range(min(_LONGEST, len(raw)), 0, -1):
            if raw[:size] in _SEQUENCES:
                break
        if raw[:size] in _SEQUENCES and not (raw[:size] == b"\x1b" and raw[1:2] in (b"[", b"O")):
            keys.append(_SEQUENCES[raw[:size]])
            raw = raw[size:]
        elif raw[:1] == b"\x1b":
            # Up to the byte that ends such a sequence (ECMA-48, 5.4).
            end = next((at for at in range(2, len(raw)) if 0x40 <= raw[at] <= 0x7E), len(raw) - 1)
            raw = raw[end + 1 :]
        else:
            if 0x20 <= raw[0] < 0x7F:
                keys.append(chr(raw[0]))
            raw = raw[1:]
    return keys


class Keyboard:
    """The keys of a terminal."""

    def __init__(self, fd: int, woken: int) -> None:
        self._fd = fd
        self._woken = woken

    def wait(self, seconds: float) -> list[str]:
        """Keys, as soon as there are any; none after so long, or when the terminal has another size."""
        ready, _, _ = select.select([self._fd, self._woken], [], [], max(0.0, seconds))
        if self._woken in ready:
            os.read(self._woken, 64)
        if self._fd not in ready:
            return []
        raw = os.read(self._fd, 256)
        return decode(raw) if raw else [END]


@contextlib.contextmanager
def keyboard(fd: int) -> Iterator[Keyboard]:
    """The terminal gives keys one by one, and shows none, until the block ends."""
    before = termios.tcgetattr(fd)
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def resized(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(wake, b"\0")

    former = signal.signal(signal.SIGWINCH, resized)
    try:
        tty.setcbreak(fd, termios.TCSANOW)
        yield Keyboard(fd, woken)
    finally:
        termios.tcsetattr(fd, termios.TCSANOW, before)
        signal.signal(signal.SIGWINCH, former)
        os.close(woken)
        os.close(wake)
