# SPDX-License-Identifier: Apache-2.0
"""Messages and values for a store that anyone may have written to: encrypted, authenticated, numbered.

    byte   0      version of this format
           1      number of the fleet key
           2-17   the daemon that sealed it: random, a new one at each start
          18-25   how many it had sealed before, big-endian
          26-     AES-256-GCM's ciphertext and tag (NIST SP 800-38D); nonce: four zero bytes and bytes 18-25

Each daemon has a key of its own, HMAC-SHA256 of its random number with the fleet's directory key: so no two
messages have key and nonce in common, however many relays seal, and for however long. Associated data are
the 26 bytes, and the place that it is for: nobody can move it to another one.
"""

from __future__ import annotations

import hmac
import secrets
import struct
from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from control.directory.errors import Refusal, SealError
from fleet.key import FleetKey

VERSION = 1
INSTANCE_BYTES = 16

_HEAD = struct.Struct(f">BB{INSTANCE_BYTES}sQ")
_LABEL = b"earshot directory daemon"
_TAG_BYTES = 16
# Derived keys that are kept, the oldest given up first: those of more daemons than a region has.
_CIPHERS = 1024


class Opened(NamedTuple):
    """What was under a seal.

    Attributes:
        instance: the daemon that sealed it.
        counter: grows with everything that it seals.
    """

    payload: bytes
    instance: bytes
    counter: int


class Sealer:
    """Seals in the name of this daemon, and opens what any of the fleet has sealed.

    Attributes:
        instance: the daemon's random number.
        number: of the key that seals.
        sealed: how many it has sealed.
    """

    def __init__(self, keys: Mapping[int, FleetKey]) -> None:
        """`keys`: by number; the first one seals, the others only open."""
        self.instance = secrets.token_bytes(INSTANCE_BYTES)
        self.number = -1
        self.sealed = 0
        self._keys: dict[int, FleetKey] = {}
        self.set_keys(keys)

    def set_keys(self, keys: Mapping[int, FleetKey]) -> bool:
        """Other keys from now on; says whether another one seals."""
        if not keys:
            raise ValueError("no fleet key to seal with")
        number, key = next(iter(keys.items()))
        is_other = self._keys.get(self.number) != key
        self.number, self._keys = number, dict(keys)
        self._ciphers: OrderedDict[tuple[int, bytes], AESGCM] = OrderedDict()
        self._own = self._derived(key, self.instance)
        return is_other

    def seal(self, place: bytes, payload: bytes) -> bytes:
        """A message for one place: the name of a stream, say."""
        self.sealed += 1
        head = _HEAD.pack(VERSION, self.number, self.instance, self.sealed)
        return head + self._own.encrypt(_nonce(self.sealed), payload, head + place)

    def unseal(self, place: bytes, sealed: bytes) -> Opened:
        """Raises SealError."""
        if sealed[:1] and sealed[0] != VERSION:
            raise SealError(Refusal.VERSION, f"is of format {sealed[0]}; this is {VERSION}")
        if len(sealed) < _HEAD.size + _TAG_BYTES:
            raise SealError(Refusal.MALFORMED, f"{len(sealed)} bytes are too few")
        head = sealed[: _HEAD.size]
        _, number, instance, counter = _HEAD.unpack(head)
        known = self._ciphers.get((number, instance))
        cipher = known or self._derived(self._key(number), instance)
        try:
            payload = cipher.decrypt(_nonce(counter), sealed[_HEAD.size :], head + place)
        except InvalidTag:
            raise SealError(Refusal.FORGED, "is not sealed with this fleet's key for this place") from None
        if known is None:
            self._ciphers[number, instance] = cipher
            if len(self._ciphers) > _CIPHERS:
                self._ciphers.popitem(last=False)
        return Opened(payload, instance, counter)

    def _key(self, number: int) -> FleetKey:
        try:
            return self._keys[number]
        except KeyError:
            raise SealError(Refusal.KEY, f"is sealed with fleet key {number}, which is not here") from None

    @staticmethod
    def _derived(key: FleetKey, instance: bytes) -> AESGCM:
        return AESGCM(hmac.digest(key.directory, _LABEL + instance, "sha256"))


def _nonce(counter: int) -> bytes:
    return counter.to_bytes(12, "big")
