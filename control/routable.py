# SPDX-License-Identifier: Apache-2.0
"""Reads routable ufrags as the XDP program does: docs/routable-ufrag.md, bpf/routable.h.

The program reads them for requests whose ufrag nobody has registered; here it is done for
registrations, so that a session has the same number wherever it is bound.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
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
_MASK_LABEL, _PWD_LABEL = b"earshot ufrag 0 mask", b"earshot ufrag 0 pwd"


@dataclass(frozen=True)
class Routable:
    """What a ufrag says.

    Attributes:
        owner: its transceiver's number in the fleet.
        session: number of the session, as flows have it.
        pwd: that belongs to it. repr() leaves it out.
    """

    key: int
    owner: int
    session: int
    pwd: str = field(repr=False)


@dataclass(frozen=True)
class FleetKey:
    """A key of the fleet, in the two parts that it is used in. repr() shows neither."""

    mask: bytes = field(repr=False)
    pwd: bytes = field(repr=False)

    @classmethod
    def of(cls, secret: bytes) -> FleetKey:
        """From the 32 bytes that relays and transceivers share."""
        return cls(*(hmac.digest(secret, label, "sha256") for label in (_MASK_LABEL, _PWD_LABEL)))

    def record(self) -> Array:
        """As the program has it."""
        record = np.zeros(1, abi.FLEET_KEY)
        inner, outer = key_states([self.mask, self.pwd])
        record["used"], record["mask"] = 1, inner[0]
        record["inner"], record["outer"] = inner[1], outer[1]
        return record


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
    digest = hmac.digest(key.pwd, head, "sha1")
    if not hmac.compare_digest(digest[:4], tag):
        return None
    bits = int.from_bytes(head, "big")
    random = bits & ((1 << _RANDOM_BITS) - 1)
    block = bytes(byte ^ 0x36 for byte in key.mask.ljust(64, b"\0"))
    mask = hashlib.sha1(block + random.to_bytes(8, "big")).digest()
    owner = bits >> _RANDOM_BITS & 0xFFFF ^ int.from_bytes(mask[:2], "big")
    pwd = base64.b64encode(digest[4:]).decode().rstrip("=")
    return Routable(number, owner, 1 << abi.SESSION_DERIVED_BIT | random >> NONCE_BITS, pwd)


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
