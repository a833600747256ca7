# SPDX-License-Identifier: Apache-2.0
"""Makes routable credentials for a transceiver's sessions (fleet/ufrag.py).

A relay that holds the fleet's key lets a client in that it was never told of, and finds this transceiver by
the number in the ufrag.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fleet import ufrag
from fleet.key import KEY_BYTES, KEYS, FleetKey, FleetKeyError, read_secret
from fleet.ufrag import NONCE_BITS, OWNERS, SESSION_BITS
from transceiver.agent import Credentials


@dataclass(frozen=True)
class NumberedKey:
    """The key that ufrags are made with now. repr() leaves the secret out.

    Attributes:
        number: by which relays know the key, 0 to 15.
        secret: 32 bytes, the same at every relay and transceiver of the fleet.
    """

    number: int
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Raises FleetKeyError."""
        if not 0 <= self.number < KEYS:
            raise FleetKeyError(f"key number {self.number} is not 0 to {KEYS - 1}")
        if len(self.secret) != KEY_BYTES:
            raise FleetKeyError(f"the key has {len(self.secret)} bytes instead of {KEY_BYTES}")

    @classmethod
    def read(cls, number: int, path: Path) -> NumberedKey:
        """From a file of 64 hexadecimal digits. Raises FleetKeyError."""
        return cls(number, read_secret(path))


class Mint:
    """Ufrags and pwds of one transceiver's sessions."""

    def __init__(self, numbered: NumberedKey, owner: int) -> None:
        """`owner`: the transceiver's number in the fleet, its alone. Raises FleetKeyError."""
        if not 0 <= owner < OWNERS:
            raise FleetKeyError(f"fleet number {owner} is not 0 to {OWNERS - 1}")
        self._number = numbered.number
        self._key = FleetKey.of(numbered.secret)
        self._owner = owner

    def session(self) -> Callable[[], Credentials]:
        """Makes the credentials of a new session: at its start, and at each ICE restart."""
        session = secrets.randbits(SESSION_BITS)
        nonces = itertools.count(secrets.randbits(NONCE_BITS))  # no two alike in a row
        return lambda: Credentials(*self.credentials_of(session, next(nonces) % (1 << NONCE_BITS)))

    def credentials_of(self, session: int, nonce: int) -> tuple[str, str]:
        """Ufrag and pwd of a session, by its random number: the same each time for the same nonce."""
        return ufrag.make(self._key, self._number, self._owner, session, nonce)
