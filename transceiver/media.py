# SPDX-License-Identifier: Apache-2.0
"""Addresses and counts that everything shares which carries media."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

IPAddress = IPv4Address | IPv6Address
Address = tuple[str, int]  # as sockets name it: a host's text form, and a port


class Endpoint(NamedTuple):
    """An address and a port."""

    address: IPAddress
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"


class Drop(StrEnum):
    """Why a datagram went no further; label values in the metrics, and so API."""

    MALFORMED = "malformed"  # empty, or it began like STUN and is none, or RTP that cannot be read
    UNKNOWN_UFRAG = "unknown_ufrag"  # a request for no session that is here
    UNKNOWN_SOURCE = "unknown_source"  # media from where no authenticated check came from
    INBOX_FULL = "inbox_full"  # more than a call could take; the oldest goes
    TOO_MANY = "too_many"  # a call sent more than its share
    NO_PATH = "no_path"  # to a client whose address is not known (any more)
    NOT_SENT = "not_sent"  # the socket would not take it


@dataclass
class Traffic:
    """UDP datagrams of all calls since the process started, and their payload bytes."""

    packets_in: int = 0
    bytes_in: int = 0
    packets_out: int = 0
    bytes_out: int = 0
    drops: Counter[Drop] = field(default_factory=Counter)
