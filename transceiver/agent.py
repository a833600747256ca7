# SPDX-License-Identifier: Apache-2.0
"""What an ICE-lite agent decides: which credentials hold, and which path media takes. No I/O, no clock.

A path moves when the client nominates another (USE-CANDIDATE), or when it is heard from another that it
has authenticated while the one in use has been silent for `ROAM_AFTER`: not every client repeats its
nomination when it moves.

After an ICE restart the old credentials and the new ones hold side by side, until media has come on the path
that the client uses with the new ones (RFC 8445, 9). While it stays on the path it had, only its nomination
tells that it has changed over.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

UFRAG_LENGTH = 8  # 47 random bits; RFC 8445, 5.3 asks for 24
PWD_LENGTH = 32  # 190 random bits; 128 are asked for
ROAM_AFTER = 0.5  # seconds

_ALPHABET = string.ascii_letters + string.digits

P = TypeVar("P", bound=Hashable)


@dataclass(frozen=True)
class Credentials:
    """One side's ufrag and pwd (RFC 8839, 5.4)."""

    ufrag: str
    pwd: str = field(repr=False)

    @classmethod
    def fresh(cls) -> Credentials:
        return cls(_random(UFRAG_LENGTH), _random(PWD_LENGTH))


class Agent(Generic[P]):
    """One session's agent. Times are seconds of any monotonic clock."""

    def __init__(self, fresh: Callable[[], Credentials] = Credentials.fresh) -> None:
        """`fresh` makes credentials: at the start, and at each ICE restart."""
        self._fresh = fresh
        self._credentials = [fresh()]
        self.path: P | None = None
        self._heard_at = 0.0
        self._old_path: P | None = None  # what was in use when the last restart began
        self._new_path: P | None = None  # what the client has shown since, with the new credentials

    @property
    def credentials(self) -> tuple[Credentials, ...]:
        """Those in use; after them, while an ICE restart is under way, the new ones."""
        return tuple(self._credentials)

    @property
    def newest(self) -> Credentials:
        return self._credentials[-1]

    def pwd_of(self, ufrag: str) -> str | None:
        """The pwd that goes with a ufrag that holds."""
        return next((held.pwd for held in self._credentials if held.ufrag == ufrag), None)

    def restart(self) -> None:
        """New credentials beside those in use. Those of a restart that has not come to its end go."""
        self._credentials = [self._credentials[0], self._fresh()]
        self._old_path, self._new_path = self.path, None

    def withdraw(self) -> None:
        """The restart did not take place."""
        del self._credentials[1:]

    def checked(self, ufrag: str, path: P, nominated: bool, now: float) -> None:
        """An authenticated check came: the client is there."""
        if ufrag == self.newest.ufrag and (nominated or path != self._old_path):
            self._new_path = path
        self._seen(path, nominated, now)

    def heard(self, path: P, now: float) -> Credentials | None:
        """Media came on an authenticated path. Returns credentials that hold no more, if it decided that."""
        self._seen(path, False, now)
        if len(self._credentials) == 1 or not path == self.path == self._new_path:
            return None
        return self._credentials.pop(0)

    def lost(self, path: P) -> None:
        """The path leads to another session now."""
        if path == self.path:
            self.path = None

    def _seen(self, path: P, nominated: bool, now: float) -> None:
        if self.path is None or nominated or now - self._heard_at > ROAM_AFTER:
            self.path = path
        if path == self.path:
            self._heard_at = now


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))
