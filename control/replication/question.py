# SPDX-License-Identifier: Apache-2.0
"""What relays of a group say to each other directly, to and from bytes: JSON, sealed by who sends it.

A question goes to one relay address of another relay, and an answer back to where the question came from.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from control.addresses import IPAddress
from control.directory.errors import Refusal, SealError

VERSION = 1
_NONCE_MOST = 32  # characters


@dataclass(frozen=True, slots=True)
class Question:
    """Do you promise not to take these addresses?

    Attributes:
        nonce: the answer bears it.
        to: the relay address that it is sent to.
        instance: of the daemon that it is for, as hex; "": not known yet, and then nothing is promised.
        addresses: relay addresses of who asks.
        milliseconds: for how long; 0: not at all, it is only looked whether somebody answers.
    """

    nonce: str
    to: IPAddress
    instance: str
    addresses: tuple[IPAddress, ...]
    milliseconds: int

    def encode(self) -> bytes:
        return _encoded("ask", self, to=str(self.to), instance=self.instance)


@dataclass(frozen=True, slots=True)
class Answer:
    """A promise from when the question was heard, or none.

    Attributes:
        nonce: the question's.
        addresses: relay addresses of who answers, for all of which it speaks.
        milliseconds: for how long; 0: nothing is promised.
    """

    nonce: str
    addresses: tuple[IPAddress, ...]
    milliseconds: int

    def encode(self) -> bytes:
        return _encoded("answer", self)


def decode(payload: bytes) -> Question | Answer:
    """Raises SealError."""
    try:
        said: dict[str, Any] = json.loads(payload)
        if said["version"] != VERSION:
            raise SealError(Refusal.VERSION, f"is of version {said['version']}; this is {VERSION}")
        nonce, milliseconds = str(said["nonce"]), int(said["milliseconds"])
        addresses = tuple(ip_address(str(one)) for one in said["addresses"])
        if len(nonce) > _NONCE_MOST or milliseconds < 0:
            raise ValueError("out of bounds")
        if said["kind"] == "answer":
            return Answer(nonce, addresses, milliseconds)
        if said["kind"] != "ask":
            raise ValueError("neither asks nor answers")
        to = ip_address(str(said["to"]))
        return Question(nonce, to, str(said["instance"]), addresses, milliseconds)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SealError(Refusal.MALFORMED, f"does not parse: {error!r}") from error


def _encoded(kind: str, said: Question | Answer, **more: str) -> bytes:
    return json.dumps(
        {
            "version": VERSION,
            "kind": kind,
            "nonce": said.nonce,
            "addresses": [str(one) for one in said.addresses],
            "milliseconds": said.milliseconds,
            **more,
        },
        separators=(",", ":"),
    ).encode()
