# SPDX-License-Identifier: Apache-2.0
"""Where clients are, and the VIPs that are near to them: what the answers to their offers name.

A client is placed by the header that a trusted proxy has set, else by its address, else it is where the
transceiver is. Nobody is refused for being nowhere, and a header that is not believed harms nobody.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from ipaddress import IPv6Address, ip_address
from pathlib import Path

from transceiver import regions
from transceiver.errors import RelayAwayError
from transceiver.log import event
from transceiver.media import Endpoint, IPAddress
from transceiver.regions import NOWHERE, Regions, RegionsError
from transceiver.relays import Relays

FORWARDED_FOR = "X-Forwarded-For"
_NOTHING: Mapping[str, str] = {}
MOST_HOPS = 32  # of X-Forwarded-For that are looked at, from the last


class By(StrEnum):
    """What a client was placed by; a label in the metrics, and so API."""

    HEADER = "header"
    NETWORK = "network"
    DEFAULT = "default"


class RegionsFile:
    """The file, read again when it has changed; one that is wrong leaves what was read before.

    Raises:
        OSError: it cannot be read.
        RegionsError: it is not as it should be.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._stamp = self._stat()
        self._read = regions.read(path) if path else Regions()

    def now(self) -> Regions:
        """What it says."""
        stamp = self._stat()
        if self._path is not None and stamp != self._stamp:
            self._stamp = stamp  # what is wrong is said once
            try:
                self._read = regions.read(self._path)
                event(logging.INFO, "regions_read", regions=len(self._read.regions))
            except (OSError, RegionsError) as error:
                event(logging.WARNING, "regions_not_read", detail=str(error))
        return self._read

    def _stat(self) -> tuple[int, int, int] | None:
        if self._path is None:
            return None
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_mtime_ns, stat.st_size


def client_address(table: Regions, peer: IPAddress, forwarded_for: Iterable[str]) -> IPAddress:
    """Who is behind the proxies that are trusted: the last address that none of these has.

    Whatever stands before it in X-Forwarded-For was said by somebody who is not trusted.
    """
    client = _plain(peer)
    hops = [hop.strip() for value in forwarded_for for hop in value.split(",")]
    for hop in reversed(hops[-MOST_HOPS:]):
        if not table.trusts(client):
            break
        try:
            client = _plain(ip_address(hop))
        except ValueError:
            break
    return client


def _plain(address: IPAddress) -> IPAddress:
    """An IPv4 address that a socket of both families has met as IPv6."""
    return (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address


class Ingresses:
    """The VIPs to tell clients, the nearest first."""

    def __init__(self, file: RegionsFile, relays: Relays, region: str = "", most: int = 2) -> None:
        """`region`: the transceiver's own. `most`: VIPs of one address family that a client is told."""
        self._file = file
        self._relays = relays
        self._region = region
        self._most = most
        self._turn = itertools.count()
        self.placed: Counter[tuple[str, str]] = Counter()  # clients by region and `By`

    def place(
        self, peer: IPAddress | None, headers: Mapping[str, str] = _NOTHING, forwarded_for: Sequence[str] = ()
    ) -> str:
        """The region that a client is near to, by what its request says; empty if there are none.

        `peer`: whoever the request came from by TCP; None if that is not known.
        """
        table = self._file.now()
        by, region = By.DEFAULT, table.default or self._own_region()
        if peer is not None and table.header and table.trusts(_plain(peer)):
            said = table.of_value(headers.get(table.header, ""))
            if said is not None:
                by, region = By.HEADER, said
        if peer is not None and by is By.DEFAULT:
            found = table.of_address(client_address(table, peer, forwarded_for))
            if found is not None:
                by, region = By.NETWORK, found
        self.placed[region, by] += 1
        return region

    def near(self, region: str) -> list[Endpoint]:
        """What to tell a client there: of each address family, one or two VIPs.

        Those of relays that are away come last. Raises `RelayAwayError` if there is none.
        """
        table = self._file.now()
        home = table.default or self._own_region()
        order = list(dict.fromkeys((*table.after(region), *table.after(home))))
        by_region = self._by_region()
        order += [other for other in by_region if other not in order]
        vips = [
            vip for name in order for vip in table.regions.get(name, NOWHERE).vips or by_region.get(name, ())
        ]
        away = self._away()
        vips = sorted(dict.fromkeys(vips), key=lambda vip: vip in away)  # stable
        chosen = [vip for version in (6, 4) for vip in _of_family(vips, version)[: self._most]]
        if not chosen or not self._relays.attached:
            raise RelayAwayError("not attached to a relay")
        return chosen

    def _own_region(self) -> str:
        attached = self._relays.attached
        return self._region or (attached[0].region if attached else "")

    def _by_region(self) -> dict[str, list[Endpoint]]:
        """VIPs of relays that serve, by region; relays of the same region come first by turns.

        Of a relay, the first of each family: what else it has is for others to tell of.
        """
        found: dict[str, list[list[Endpoint]]] = {}
        for client in self._relays.serving:
            first = [vip for version in (6, 4) for vip in _of_family(client.vips, version)[:1]]
            found.setdefault(client.region, []).append(first)
        turn = next(self._turn)
        return {
            region: [vip for at in range(len(each)) for vip in each[(at + turn) % len(each)]]
            for region, each in found.items()
        }

    def _away(self) -> frozenset[Endpoint]:
        """VIPs of relays that are away, and of none that serves."""
        serving = [client.vips_known for client in self._relays.serving]
        known = [client.vips_known for client in self._relays.clients]
        return frozenset[Endpoint]().union(*known) - frozenset[Endpoint]().union(*serving)


def _of_family(vips: Sequence[Endpoint], version: int) -> list[Endpoint]:
    return [vip for vip in vips if vip.address.version == version]
