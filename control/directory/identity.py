# SPDX-License-Identifier: Apache-2.0
"""Which directory this is, for those who have to know that two relays share one, and nothing else of it.

The first relay puts a random number there; all read it again and again, and put it back where Redis has lost
it. What is told is an HMAC of it by each fleet key that is here: relays that cannot read each other have
nothing in common, and those that have changed their keys have something in common with those that are about
to. Who writes another number there makes transceivers move, and no more.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Iterable
from typing import Any

from control.directory.journal import PREFIX
from control.directory.link import Link
from fleet.key import FleetKey

KEY = f"{PREFIX}:id"
ID_BYTES = 16

_LABEL = b"earshot directory id"
# The number that is there; ours, if it is none.
_AGREE = """
local found = redis.call('GET', KEYS[1])
if found and #found == tonumber(ARGV[2]) then
    return found
end
redis.call('SET', KEYS[1], ARGV[1])
return ARGV[1]
"""


class Identity:
    """The directory's number, as this relay has last read it.

    Attributes:
        known: set once it was read.
    """

    def __init__(self, link: Link) -> None:
        self.known = asyncio.Event()
        self._link = link
        self._agree: Any = link.redis.register_script(_AGREE)
        self._number = secrets.token_hex(ID_BYTES).encode()
        self._former: bytes | None = None  # the one before: others may not have heard of this one

    async def keep(self) -> None:
        """Reads it, or puts it there. Raises AwayError."""
        found: bytes = await self._link.call(
            lambda _: self._agree(keys=[KEY], args=[self._number, 2 * ID_BYTES])
        )
        if found != self._number:
            self._former = self._number if self.known.is_set() else None
            self._number = found
        self.known.set()

    def told(self, keys: Iterable[FleetKey]) -> list[str]:
        """What is said of it: relays that say the same one share a directory. Nothing before it is known."""
        if not self.known.is_set():
            return []
        numbers = [self._number, *([self._former] if self._former else [])]
        return [
            hmac.digest(key.directory, _LABEL + number, "sha256")[:ID_BYTES].hex()
            for number in numbers
            for key in keys
        ]
