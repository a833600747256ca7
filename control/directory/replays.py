# SPDX-License-Identifier: Apache-2.0
"""Messages of a journal that were said before, by whoever has kept them and can write to Redis."""

from __future__ import annotations

from control.directory.errors import Refusal, Refusals
from control.directory.journal import Journal, Message, place_of

# Daemons that are remembered, the one that was silent longest given up first: more than a region has.
_DAEMONS = 4096


class Replays:
    """Tells them from new ones: every later message of a daemon has a higher counter."""

    def __init__(self, journal: Journal, refusals: Refusals) -> None:
        self._journal = journal
        self._refusals = refusals
        self._last: dict[bytes, tuple[int, tuple[int, int]]] = {}  # counter and place, by daemon

    def is_new(self, message: Message) -> bool:
        """Whether a message is to be heard; one that stands where it did not stand before is refused.

        Read again, where an older copy of Redis has taken over, it stands where it stood.
        """
        place = place_of(message.position)
        counter, last = self._last.pop(message.instance, (0, (0, 0)))
        is_new = message.counter > counter
        # At the end: the first ones are forgotten first.
        self._last[message.instance] = (message.counter, place) if is_new else (counter, last)
        if len(self._last) > _DAEMONS:
            del self._last[next(iter(self._last))]
        if not is_new and place > last:
            where = f"{self._journal.key} {message.position}"
            self._refusals.add(Refusal.REPLAYED, where, f"was said by {message.instance.hex()} before")
        return is_new
