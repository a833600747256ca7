# SPDX-License-Identifier: Apache-2.0
"""A message between relays of a group, to and from bytes. Sealed and opened by who carries it.

    4 bytes    length of the head, big-endian
    head       JSON: who says what, and tables that rows refer to by index
    the rest   rows (abi-like, little-endian but for ports), or bits

Rows are columns of numpy: a relay that comes back is told of a hundred thousand flows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from typing import Any

import numpy as np
from numpy.typing import NDArray

from control.addresses import Endpoint, IPAddress, parse_endpoint
from control.errors import EarshotError
from control.model import SessionName

VERSION = 1
ROWS_MAX = 512  # in a message: some 25 KiB

# A flow of the teller's, as its words are in the maps; `age` in milliseconds since its binding, `word` the
# second of that by the teller's clock. `session`: an index, or the number that follows from a routable ufrag.
ROW = np.dtype(
    {
        "names": [
            *("client_addr", "client_port", "port", "session", "word", "age"),
            *("backend", "relay", "vip", "is_live"),
        ],
        "formats": ["V16", ">u2", ">u2", "<u4", "<u4", "<u4", "<u2", "u1", "u1", "u1"],
        "offsets": [0, 16, 18, 20, 24, 28, 32, 34, 35, 36],
        "itemsize": 40,
    }
)
Rows = NDArray[np.void]
_LENGTH = 4


class MessageError(EarshotError):
    """Bytes that are no message of this version."""


class Kind(StrEnum):
    CHANGES = "changes"  # flows that were bound, and that have ended
    LIST = "list"  # all flows there are, in parts
    WANT = "want"  # somebody has missed something of these relay addresses: a list, please
    ACTIVE = "active"  # a bit for each port: flows of others that have had packets here
    RECALL = "recall"  # the teller has lost the flows of its own addresses: who knows any?
    KNOWN = "known"  # such flows, of the addresses named, as somebody else knows them
    HELLO = "hello"  # nothing new
    ASK = "ask"  # who has entered all that the teller has told so far?
    HEARD = "heard"  # the teller has: run and sequence of the relay of these addresses stand in the body


@dataclass
class Message:
    """One message.

    Attributes:
        relay: the teller's name.
        run: of its daemon, random.
        sequence: of what must not be missed, in that run; a message of another kind bears the last one's.
        addresses: relay addresses that it is about: the teller's own, but in WANT, ACTIVE, KNOWN, HEARD.
        vips, backends, sessions: what rows refer to.
        is_first, is_last: of the parts of a list.
        body: rows as bytes, or bits, by address and port.
    """

    relay: str
    run: int
    kind: Kind
    sequence: int
    addresses: tuple[IPAddress, ...]
    vips: tuple[Endpoint, ...] = ()
    backends: tuple[Endpoint, ...] = ()
    sessions: tuple[SessionName, ...] = ()
    is_first: bool = False
    is_last: bool = False
    body: bytes = field(default=b"", repr=False)

    @property
    def rows(self) -> Rows:
        return np.frombuffer(self.body, ROW)

    def encode(self) -> bytes:
        head = json.dumps(
            {
                "version": VERSION,
                "relay": self.relay,
                "run": self.run,
                "kind": self.kind.value,
                "sequence": self.sequence,
                "addresses": [str(address) for address in self.addresses],
                "vips": [str(vip) for vip in self.vips],
                "backends": [str(backend) for backend in self.backends],
                "sessions": self.sessions,
                "part": [self.is_first, self.is_last],
            },
            separators=(",", ":"),
        ).encode()
        return len(head).to_bytes(_LENGTH, "big") + head + self.body

    @classmethod
    def decode(cls, raw: bytes) -> Message:
        """Raises MessageError, also if a row refers to what is not there."""
        length = int.from_bytes(raw[:_LENGTH], "big")
        try:
            head: dict[str, Any] = json.loads(raw[_LENGTH : _LENGTH + length])
            if head["version"] != VERSION:
                raise MessageError(f"is of version {head['version']}; this is {VERSION}")
            message = cls(
                str(head["relay"]),
                int(head["run"]),
                Kind(head["kind"]),
                int(head["sequence"]),
                tuple(ip_address(one) for one in head["addresses"]),
                tuple(parse_endpoint(one) for one in head["vips"]),
                tuple(parse_endpoint(one) for one in head["backends"]),
                tuple(SessionName(str(name), str(session)) for name, session in head["sessions"]),
                bool(head["part"][0]),
                bool(head["part"][1]),
                raw[_LENGTH + length :],
            )
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise MessageError(f"does not parse: {error!r}") from error
        if fault := message._fault():
            raise MessageError(fault)
        return message

    def _fault(self) -> str | None:
        """What is wrong with its rows."""
        if self.kind not in (Kind.CHANGES, Kind.LIST, Kind.KNOWN):
            return None
        if len(self.body) % ROW.itemsize:
            return "its rows are cut short"
        rows = self.rows
        live = rows[rows["is_live"] > 0]
        named = live["session"][live["session"] >> 31 == 0]
        if (
            (rows["relay"] >= len(self.addresses)).any()
            or (live["vip"] >= len(self.vips)).any()
            or (live["backend"] >= len(self.backends)).any()
            or (named >= len(self.sessions)).any()
        ):
            return "a row refers to what is not there"
        return None
