# SPDX-License-Identifier: Apache-2.0
"""Who may do what: callers by their proven identities, and what the configuration allows these.

An identity is ``uid:N`` (a process on this host, by the credentials of its socket), ``san:NAME`` (a DNS
name or URI of a client certificate that a trusted CA has signed) or ``loopback`` (anyone at all on this
host, over TCP without TLS). How they are proven is the business of control/callers.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from ipaddress import ip_network
from typing import Any

from control.addresses import IPNetwork
from control.errors import ConfigError

LOOPBACK = "loopback"

_UID = re.compile(r"uid:(0|[1-9][0-9]{0,9})", re.ASCII)
_NAMES = re.compile(r"[A-Za-z0-9._:*-]{1,64}")
_KEYS = ("identity", "names", "addresses")


@dataclass(frozen=True, slots=True)
class Entry:
    """One `[[transceivers]]` table: an identity, the names it may attach as (``*`` stands for any
    characters), and the prefixes in which it may register endpoints under these names."""

    identity: str
    names: tuple[str, ...]
    addresses: tuple[IPNetwork, ...]

    def covers(self, name: str) -> bool:
        """Whether it speaks of a transceiver of this name."""
        return any(fnmatchcase(name, pattern) for pattern in self.names)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is at the other end of a connection.

    Attributes:
        identities: those it has proven; any of them may be named in the configuration.
        is_local: it came by the unix socket, whose file mode has let it in.
    """

    identities: tuple[str, ...]
    is_local: bool

    def __str__(self) -> str:
        return ",".join(self.identities) or "a certificate without DNS name or URI"


@dataclass(frozen=True, slots=True)
class Grant:
    """What one caller may do. None in place of entries: whatever it likes."""

    caller: Caller
    writes: tuple[Entry, ...] | None
    reads: tuple[Entry, ...] | None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing at all that this caller may do."""
        return self.writes == self.reads == ()

    def prefixes(self, name: str) -> tuple[IPNetwork, ...] | None:
        """Where endpoints of a transceiver of this name may lie; None: anywhere, (): it may not attach."""
        if self.writes is None:
            return None
        return tuple(prefix for entry in self.writes if entry.covers(name) for prefix in entry.addresses)

    def sees(self, name: str) -> bool:
        """Whether what belongs to a transceiver of this name may be read."""
        return self.reads is None or any(entry.covers(name) for entry in self.reads)


class Policy:
    """The `[[transceivers]]` tables as a whole.

    Without any, whoever is let in by the unix socket's file mode may do everything, and over TCP
    nobody may do anything. With them, everybody who attaches needs one; reading stays free on the
    unix socket, and over TCP goes as far as the names do.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = tuple(entries)

    def grant(self, caller: Caller) -> Grant:
        """What a caller may do."""
        own = tuple(entry for entry in self._entries if entry.identity in caller.identities)
        if not caller.is_local:
            return Grant(caller, writes=own, reads=own)
        return Grant(caller, writes=own if self._entries else None, reads=None)


def san_identity(name: str) -> str:
    """How a DNS name or URI of a certificate is named: DNS names know no case, and have no colon."""
    return f"san:{name}" if ":" in name else f"san:{name.lower()}"


def parse_entries(tables: object) -> tuple[Entry, ...]:
    """The entries of TOML tables.

    Raises:
        ConfigError: naming the field, such as ``transceivers[0].names``.
    """
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError("transceivers", "is written as tables: [[transceivers]]")
    return tuple(_entry(f"transceivers[{index}]", table) for index, table in enumerate(tables))


def _entry(path: str, table: Mapping[str, Any]) -> Entry:
    for key in table.keys() - set(_KEYS):
        raise ConfigError(f"{path}.{key}", "there is no such setting")
    for key in _KEYS:
        if key not in table:
            raise ConfigError(f"{path}.{key}", "is required")
    names = _texts(f"{path}.names", table["names"])
    for name in names:
        if not _NAMES.fullmatch(name):
            raise ConfigError(f"{path}.names", f"{name!r} is not 1 to 64 of A-Za-z0-9._:- and *")
    prefixes = []
    for text in _texts(f"{path}.addresses", table["addresses"]):
        try:
            prefixes.append(ip_network(text))
        except ValueError as error:
            raise ConfigError(f"{path}.addresses", str(error)) from None
    return Entry(_identity(f"{path}.identity", table["identity"]), tuple(names), tuple(prefixes))


def _identity(path: str, value: object) -> str:
    if not isinstance(value, str):
        raise ConfigError(path, f"{value!r} is not a string")
    kind, _, name = value.partition(":")
    if value == LOOPBACK or _UID.fullmatch(value):
        return value
    if kind == "san" and name and not re.search(r"\s", name):
        return san_identity(name)
    raise ConfigError(path, f"{value!r} is none of uid:N, san:NAME and {LOOPBACK}")


def _texts(path: str, value: object) -> Iterable[str]:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise ConfigError(path, "is not a list of strings with at least one in it")
    return value
