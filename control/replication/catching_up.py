# SPDX-License-Identifier: Apache-2.0
"""When a relay that has just started may be sent packets: once it knows what the others of its group do."""

from __future__ import annotations

from collections.abc import Set

LISTEN_SECONDS = 2.0  # in which whoever is there has said so, twice
ALONE_SECONDS = 5.0  # after which a relay that cannot reach the directory goes on with what it knows


class CatchingUp:
    """Without I/O and without a clock of its own. Times are seconds of one monotonic clock.

    What others tell while it catches up does not count: somebody always has a flow that waits for a moment.
    """

    def __init__(self, now: float) -> None:
        self._begun = now
        self._listening_since: float | None = None
        self._owed: Set[int] | None = None  # records to be entered when nothing was missing any more

    def is_over(self, now: float, *, is_listening: bool, is_whole: bool, waiting: Set[int]) -> bool:
        """Whether it has caught up.

        `is_listening`: what others say from now on will be heard; `is_whole`: nothing is missing of those who
        were heard and are there; `waiting`: numbers of the records that are to be entered yet.
        """
        if self._listening_since is None:
            if not is_listening:
                return now - self._begun >= ALONE_SECONDS
            self._listening_since = now
        if self._owed is None:
            if now - self._listening_since < LISTEN_SECONDS or not is_whole:
                return False
            self._owed = set(waiting)
        self._owed &= waiting
        return not self._owed
