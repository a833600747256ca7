# SPDX-License-Identifier: Apache-2.0
"""New maps beside old ones, until links have the new program: so that dying at any moment is repaired.

    next/     pins of the new maps and program, being filled; the old ones carry all packets
    commit/   the same folder, renamed: from now on some links may have the new program
    then      pins are moved over the old ones, and the folder goes

Who finds ``next`` throws it away. Who finds ``commit`` looks at the links: if none has the program that is
pinned there, nothing has happened yet, and it is thrown away, too; else what was begun is brought to an end.
Both folders are in the pin path, which may be all that the daemon's user can write to.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from control import libbpf

NEXT, COMMIT = "next", "commit"
_PROGRAM = "program"


class Staging:
    """The two folders of a pin path. Its lock is held meanwhile."""

    def __init__(self, pin_path: Path) -> None:
        self._pin_path = pin_path
        self._next, self._commit = pin_path / NEXT, pin_path / COMMIT

    def begin(self, fds: Mapping[str, int], program_fd: int) -> None:
        """Pins what is new."""
        self._next.mkdir(mode=0o700)
        for name, fd in fds.items():
            libbpf.pin(fd, self._next / name)
        libbpf.pin(program_fd, self._next / _PROGRAM)

    def commit(self) -> None:
        """From now on it is finished, not thrown away, if a link has the new program."""
        self._next.rename(self._commit)

    def finish(self) -> None:
        """The new pins take the places of the old ones."""
        for pin in self._commit.iterdir():
            if pin.name != _PROGRAM:
                pin.rename(self._pin_path / pin.name)
        _remove(self._commit)

    def discard(self) -> None:
        """Forgets what was begun; no link has the new program, or none matters any more."""
        for folder in (self._next, self._commit):
            if folder.is_dir():
                _remove(folder)

    def repair(self, running: set[int], bring_over: Callable[[dict[str, Path]], None]) -> bool:
        """Whether somebody who died had begun, and what he began has been brought to an end.

        Args:
            running: numbers of the programs that links have.
            bring_over: given the staged pins by name, carries over what the old maps have got since.
        """
        if not self._commit.is_dir() or not (self._commit / _PROGRAM).exists():
            # Without its program: all of it was moved already, or nothing was begun.
            self.discard()
            return False
        fd = libbpf.get_pinned(self._commit / _PROGRAM)
        try:
            begun = libbpf.program_id(fd) in running
        finally:
            os.close(fd)
        if not begun:
            self.discard()
            return False
        staged = {pin.name: pin for pin in self._commit.iterdir() if pin.name != _PROGRAM}
        bring_over(staged)
        self.finish()
        return True


def _remove(folder: Path) -> None:
    for pin in folder.iterdir():
        pin.unlink()
    folder.rmdir()
