# SPDX-License-Identifier: Apache-2.0
"""Reads routable ufrags as the XDP program does: docs/routable-ufrag.md, bpf/routable.h.

The program reads them for requests whose ufrag nobody has registered; here it is done for
registrations, so that a session has the same number wherever it is bound.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from control import abi
from control.config import FleetKeyFile
from control.errors import ConfigError
from control.hmac_keys import key_states
from control.libbpf import Array
from control.requests import Code, Credential, RequestError

KEY_BYTES = 32
UFRAG_LENGTH = 16
NONCE_BITS = 11
_RANDOM_BITS = 42
_RANDOM_MASK = (1 << _RANDOM_BITS) - 1
_WORD = (1 << 64) - 1
_MASK_LABEL, _PWD_LABEL = b"earshot ufrag 0 mask", b"earshot ufrag 0 pwd"


@dataclass(frozen=True)
class FleetKey:
    """A key of the fleet, in the two parts that it is used in. repr() shows neither."""

    secret: bytes = field(repr=False)
    mask: tuple[int, int] = field(repr=False)

    @classmethod
    def of(cls, secret: bytes) -> FleetKey:
        """From the 32 bytes that relays and transceivers share."""
        first, second = struct.unpack_from("<QQ", _part(secret, _MASK_LABEL))
        return cls(_part(secret, _PWD_LABEL), (first, second))

    def record(self) -> Array:
        """As the program has it."""
        record = np.zeros(1, abi.FLEET_KEY)
        record["used"], record["secret"], record["mask"] = 1, key_states([self.secret])[0][0], self.mask
        return record


@dataclass(frozen=True)
class Routable:
    """What a ufrag says.

    Attributes:
        key: the number of the key that it was made with.
        session: the number of its session, as flows have it.
        pwd: that belongs to it. repr() leaves it out.
    """

    key: int
    session: int
    pwd: str = field(repr=False)
    _head: int = field(repr=False)
    _mask: tuple[int, int] = field(repr=False)

    @property
    def owner(self) -> int:
        """The number of its transceiver in the fleet."""
        mask = _siphash(self._mask, self._head & _RANDOM_MASK)
        return (self._head >> _RANDOM_BITS ^ mask) % abi.FLEET_OWNER_MAX


def read_keys(files: Iterable[FleetKeyFile]) -> dict[int, FleetKey]:
    """By number, from files of 64 hexadecimal digits. Raises ConfigError."""
    return {number: _read_key(path) for number, path in files}


def _read_key(path: Path) -> FleetKey:
    try:
        secret = bytes.fromhex(path.read_text().strip())
    except OSError as error:
        raise ConfigError("fleet_keys", f"{path}: {error.strerror}") from error
    except ValueError:
        secret = b""
    if len(secret) != KEY_BYTES:
        raise ConfigError("fleet_keys", f"{path} does not hold {2 * KEY_BYTES} hexadecimal digits")
    return FleetKey.of(secret)


def read(ufrag: str, keys: Mapping[int, FleetKey]) -> Routable | None:
    """What a ufrag says; None: it is not a routable one, or of none of these keys."""
    if len(ufrag) != UFRAG_LENGTH:
        return None
    try:
        raw = base64.b64decode(ufrag, validate=True)
    except ValueError:
        return None
    head, tag = raw[:8], raw[8:]
    number = raw[0] >> 2  # the version, 0, and the key's number
    key = keys.get(number)
    if key is None:
        return None
    digest = _keyed(key.secret, head)
    if not hmac.compare_digest(digest[:4], tag):
        return None
    bits = int.from_bytes(head, "big")
    session = 1 << abi.SESSION_DERIVED_BIT | (bits & _RANDOM_MASK) >> NONCE_BITS
    pwd = base64.b64encode(digest[4:]).decode().rstrip("=")
    return Routable(number, session, pwd, bits, key.mask)


def _part(secret: bytes, label: bytes) -> bytes:
    """A key for one purpose alone, of 32 bytes."""
    return hmac.digest(secret, label, "sha256")


def _siphash(key: tuple[int, int], message: int) -> int:
    """SipHash-2-4 of eight bytes, as bpf/siphash.h has it."""

    def rotated(word: int, bits: int) -> int:
        return (word << bits | word >> 64 - bits) & _WORD

    a, b = key[0] ^ 0x736F6D6570736575, key[1] ^ 0x646F72616E646F6D
    c, d = key[0] ^ 0x6C7967656E657261, key[1] ^ 0x7465646279746573
    for word, rounds in ((message, 2), (8 << 56, 2), (None, 4)):
        if word is None:
            c ^= 0xFF
        else:
            d ^= word
        for _ in range(rounds):
            a, c = (a + b) & _WORD, (c + d) & _WORD
            b, d = rotated(b, 13) ^ a, rotated(d, 16) ^ c
            a, c = (rotated(a, 32) + d) & _WORD, (c + b) & _WORD
            d, b = rotated(d, 21) ^ a, rotated(b, 17) ^ c
            c = rotated(c, 32)
        if word is not None:
            a ^= word
    return a ^ b ^ c ^ d


def _keyed(key: bytes, message: bytes) -> bytes:
    """HMAC-SHA1's inner half, of eight bytes: docs/routable-ufrag.md says why that is enough."""
    return hashlib.sha1(bytes(byte ^ 0x36 for byte in key.ljust(64, b"\0")) + message).digest()


def session_of(credentials: Sequence[Credential], keys: Mapping[int, FleetKey]) -> int | None:
    """The number that a session has by its ufrags; None: they are not routable.

    Raises:
        RequestError: INVALID_ARGUMENT, they are of two sessions, or a pwd is not the one that follows: relays
            that were told nothing would not let its clients in.
    """
    number: int | None = None
    for index, credential in enumerate(credentials):
        said = read(credential.ufrag, keys)
        if said is not None and credential.pwd and credential.pwd.decode() != said.pwd:
            raise RequestError(
                Code.INVALID_ARGUMENT,
                "is not the one that follows from the ufrag",
                f"credentials[{index}].pwd",
            )
        found = said.session if said is not None else None
        if index and found != number:
            raise RequestError(
                Code.INVALID_ARGUMENT, "is of another session than the first", f"credentials[{index}].ufrag"
            )
        number = found
    return number
