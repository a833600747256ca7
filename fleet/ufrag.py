# SPDX-License-Identifier: Apache-2.0
"""Ufrags that say whose session it is, and the pwds that follow from them: docs/routable-ufrag.md."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

from fleet.key import TAG_BYTES, FleetKey

OWNERS = 1 << 16
SESSION_BITS, NONCE_BITS = 31, 11
LENGTH = 16  # characters

_VERSION = 0
_RANDOM_BITS = SESSION_BITS + NONCE_BITS
_HEAD_BYTES = 8


@dataclass(frozen=True)
class Routable:
    """What a ufrag says.

    Attributes:
        key: the number of the key that it was made with.
        session: its session's random number.
        pwd: that belongs to it. repr() leaves it out.
    """

    key: int
    session: int
    pwd: str = field(repr=False)
    _head: int = field(repr=False)
    _secrets: FleetKey = field(repr=False)

    @property
    def owner(self) -> int:
        """The number of its transceiver in the fleet."""
        random = self._head % (1 << _RANDOM_BITS)
        return self._secrets.hide(self._head >> _RANDOM_BITS & OWNERS - 1, random)


def make(key: FleetKey, number: int, owner: int, session: int, nonce: int) -> tuple[str, str]:
    """Ufrag and pwd: the same each time for the same arguments. `number`: of the key."""
    random = session << NONCE_BITS | nonce
    bits = _VERSION << 62 | number << 58 | key.hide(owner, random) << _RANDOM_BITS | random
    head = bits.to_bytes(_HEAD_BYTES, "big")
    digest = key.digest(head)
    return base64.b64encode(head + digest.tag).decode(), digest.pwd


def read(ufrag: str, keys: Mapping[int, FleetKey]) -> Routable | None:
    """What a ufrag says; None: it is not a routable one, or of none of these keys, by their numbers."""
    if len(ufrag) != LENGTH:
        return None
    try:
        raw = base64.b64decode(ufrag, validate=True)
    except ValueError:
        return None
    if len(raw) != _HEAD_BYTES + TAG_BYTES:
        return None
    head, tag = raw[:_HEAD_BYTES], raw[_HEAD_BYTES:]
    number = raw[0] >> 2  # the version, 0, and the key's number
    key = keys.get(number)
    if key is None:
        return None
    digest = key.digest(head)
    if not hmac.compare_digest(digest.tag, tag):
        return None
    bits = int.from_bytes(head, "big")
    return Routable(number, bits % (1 << _RANDOM_BITS) >> NONCE_BITS, digest.pwd, bits, key)
