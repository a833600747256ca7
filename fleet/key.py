# SPDX-License-Identifier: Apache-2.0
"""A fleet's key, in the parts that it is used in."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from fleet.siphash import siphash

KEY_BYTES = 32
KEYS = 16  # key numbers that a ufrag can hold
TAG_BYTES = 4

_MASK_LABEL, _PWD_LABEL = b"earshot ufrag 0 mask", b"earshot ufrag 0 pwd"
_DIRECTORY_LABEL = b"earshot directory 1"


class FleetKeyError(ValueError):
    """A fleet key cannot be used, and why."""


class Digest(NamedTuple):
    """What follows from the head of a ufrag: the tag that proves it, and the pwd that goes with it."""

    tag: bytes
    pwd: str


@dataclass(frozen=True)
class FleetKey:
    """repr() shows no part of it."""

    secret: bytes = field(repr=False)  # of tags and pwds
    mask: bytes = field(repr=False)  # 16 bytes, SipHash's: it hides owners
    directory: bytes = field(repr=False)  # of what relays tell each other; transceivers have no use for it

    @classmethod
    def of(cls, secret: bytes) -> FleetKey:
        """From the 32 bytes that relays and transceivers share."""
        pwd_key, mask_key, directory_key = (
            hmac.digest(secret, label, "sha256") for label in (_PWD_LABEL, _MASK_LABEL, _DIRECTORY_LABEL)
        )
        return cls(pwd_key, mask_key[:16], directory_key)

    def digest(self, head: bytes) -> Digest:
        """Of the eight bytes before a ufrag's tag: HMAC-SHA1's inner half (RFC 2104).

        A relay has no time for the other one, which keeps others from extending a message whose digest they
        know; here only eight bytes count.
        """
        block = bytes(byte ^ 0x36 for byte in self.secret.ljust(64, b"\0"))
        digest = hashlib.sha1(block + head).digest()
        return Digest(digest[:TAG_BYTES], b64encode(digest[TAG_BYTES:]).decode().rstrip("="))

    def hide(self, owner: int, random: int) -> int:
        """A transceiver's number as it stands in a ufrag with these random bits, and the other way round."""
        return owner ^ siphash(self.mask, random.to_bytes(8, "little")) & 0xFFFF


def read_secret(path: Path) -> bytes:
    """From a file of 64 hexadecimal digits. Raises FleetKeyError."""
    try:
        secret = bytes.fromhex(path.read_text().strip())
    except OSError as error:
        raise FleetKeyError(f"{path}: {error.strerror}") from error
    except ValueError:
        secret = b""
    if len(secret) != KEY_BYTES:
        raise FleetKeyError(f"{path} does not hold {2 * KEY_BYTES} hexadecimal digits")
    return secret
