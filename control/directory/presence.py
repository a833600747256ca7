# SPDX-License-Identifier: Apache-2.0
"""A relay's name in the directory: one running daemon has it, for as long as it says so again and again.

Nothing else depends on names: leases and messages bear the daemon's random number. But two relays of one name
are one mistake of an operator's, who would see half of what there is; so the second one raises an alarm.
"""

from __future__ import annotations

import logging

from control.directory.errors import AwayError
from control.directory.journal import PREFIX
from control.directory.link import Link
from control.logs import event

LEASE_SECONDS = 10.0

# Takes the name if nobody has it, and keeps it if it is ours; returns who has it.
_HOLD = """
local holder = redis.call('GET', KEYS[1])
if not holder or holder == ARGV[1] then
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
    return ARGV[1]
end
return holder
"""
_LEAVE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"

_log = logging.getLogger(__name__)


class Presence:
    """The name of this relay.

    Attributes:
        is_ours: whether this daemon has it.
        is_disputed: whether another daemon that runs has it.
    """

    def __init__(self, link: Link, name: str, instance: bytes) -> None:
        self._link = link
        self.is_ours = self.is_disputed = False
        self._instance = instance.hex().encode()
        self._hold = link.redis.register_script(_HOLD)
        self._leave = link.redis.register_script(_LEAVE)
        self._other: tuple[bytes, float] | None = None  # who has the name, and since when we know it
        self.name = name

    @property
    def name(self) -> str:
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        self._name = name
        self._key = f"{PREFIX}:relay:{name}"

    async def keep(self, now: float) -> None:
        """Says that this relay is there; to be called several times in LEASE_SECONDS. Raises AwayError.

        A daemon that was here before us and died still has the name for a while, which is no dispute.
        """
        lease = int(LEASE_SECONDS * 1000)
        holder: bytes = await self._link.call(
            lambda _: self._hold(keys=[self._key], args=[self._instance, lease])
        )
        self.is_ours = holder == self._instance
        if self.is_ours:
            self._other, self.is_disputed = None, False
        elif self._other is None or self._other[0] != holder:
            self._other = holder, now
        elif not self.is_disputed and now - self._other[1] > LEASE_SECONDS:
            self.is_disputed = True
            event(
                _log,
                logging.ERROR,
                "relay_name_taken",
                relay=self._name,
                by=holder.decode("ascii", "replace"),
            )

    async def leave(self) -> None:
        """The name is free for others, if it was ours."""
        try:
            await self._link.call(lambda _: self._leave(keys=[self._key], args=[self._instance]), 1.0)
        except AwayError:
            event(_log, logging.INFO, "directory_not_left", relay=self._name)
