# SPDX-License-Identifier: Apache-2.0
"""Makes ufrags that say whose session it is, and the pwds that follow from them: docs/routable-ufrag.md.

A relay that holds the fleet's key lets a client in that it was never told of, and finds this
transceiver by the number in the ufrag. control/routable.py and bpf/routable.h read what is made here.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import secrets
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from transceiver.agent import Credentials
from transceiver.siphash import siphash

KEY_BYTES = 32
KEYS = 16
OWNERS = 1 << 16
SESSION_BITS, NONCE_BITS = 31, 11

_VERSION = 0
_MASK_LABEL, _PWD_LABEL = b"earshot ufrag 0 mask", b"earshot ufrag 0 pwd"


class FleetKeyError(ValueError):
    """A fleet key cannot be used, and why."""


@dataclass(frozen=True)
class FleetKey:
    """What ufrags are made with now. repr() leaves the secret out.

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
    def read(cls, number: int, path: Path) -> FleetKey:
        """From a file of 64 hexadecimal digits. Raises FleetKeyError."""
        try:
            return cls(number, bytes.fromhex(path.read_text().strip()))
        except OSError as error:
            raise FleetKeyError(f"{path}: {error.strerror}") from error
        except ValueError as error:
            raise FleetKeyError(f"{path} does not hold {2 * KEY_BYTES} hexadecimal digits") from error


class Mint:
    """Ufrags and pwds of one transceiver's sessions."""

    def __init__(self, key: FleetKey, owner: int) -> None:
        """`owner`: the transceiver's number in the fleet, its alone. Raises FleetKeyError."""
        if not 0 <= owner < OWNERS:
            raise FleetKeyError(f"fleet number {owner} is not 0 to {OWNERS - 1}")
        self._key = key
        self._owner = owner
        self._mask_key = _derived(key.secret, _MASK_LABEL)[:16]
        self._pwd_key = _derived(key.secret, _PWD_LABEL)

    def session(self) -> Callable[[], Credentials]:
        """Makes the credentials of a new session: at its start, and at each ICE restart."""
        session = secrets.randbits(SESSION_BITS)
        nonces = itertools.count(secrets.randbits(NONCE_BITS))  # no two alike in a row
        return lambda: Credentials(*self.credentials_of(session, next(nonces) % (1 << NONCE_BITS)))

    def credentials_of(self, session: int, nonce: int) -> tuple[str, str]:
        """Ufrag and pwd of a session, by its random number: the same each time for the same nonce."""
        random = session << NONCE_BITS | nonce
        owner = self._owner ^ siphash(self._mask_key, random.to_bytes(8, "little")) % OWNERS
        head = (_VERSION << 62 | self._key.number << 58 | owner << 42 | random).to_bytes(8, "big")
        digest = _keyed(self._pwd_key, head)
        return b64encode(head + digest[:4]).decode(), b64encode(digest[4:]).decode().rstrip("=")


def _derived(secret: bytes, label: bytes) -> bytes:
    """A key for one purpose alone, of 32 bytes."""
    return hmac.digest(secret, label, "sha256")


def _keyed(key: bytes, message: bytes) -> bytes:
    """HMAC-SHA1's inner half (RFC 2104), of a message of eight bytes: a relay has no time for the other one.

    That one keeps others from extending a message whose digest they know; here only eight bytes count.
    """
    return hashlib.sha1(bytes(byte ^ 0x36 for byte in key.ljust(64, b"\0")) + message).digest()
