# SPDX-License-Identifier: Apache-2.0
"""How much of the client's sound is on its way to a backend, and whether the backend still takes any.

Times are the client's: microseconds of sound since its first. No I/O; the clock is told.
"""

from __future__ import annotations


class Ledger:
    """Of one stream: at most `window_us` may be unused at a time."""

    def __init__(self, window_us: int) -> None:
        self._window_us = window_us
        self._sent = -1  # timestamp of the last that went
        self._used = -1  # timestamp of the last that the backend says it used
        self._edge_us = 0  # up to where it counts as used
        self._full_since: float | None = None
        self.dropped_us = 0

    def sends(self, timestamp_us: int, length_us: int, now: float) -> bool:
        """Whether sound may go; if not, it counts as dropped."""
        if self._used >= self._sent:
            self._edge_us = timestamp_us  # nothing is on its way: a gap takes no room
        if timestamp_us + length_us - self._edge_us > self._window_us:
            self.dropped_us += length_us
            if self._full_since is None:
                self._full_since = now
            return False
        self._sent = timestamp_us
        return True

    def used(self, timestamp_us: int) -> None:
        """The backend has used all up to the sound of that timestamp. Raises `ValueError` if none went."""
        if timestamp_us > self._sent:
            raise ValueError(f"has used sound of {timestamp_us} us, which was not sent")
        if timestamp_us > self._used:
            self._used = self._edge_us = timestamp_us
            self._full_since = None

    def stalled(self, now: float, timeout: float) -> bool:
        """Whether there has been no room for so long."""
        return self._full_since is not None and now - self._full_since > timeout
