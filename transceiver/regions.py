# SPDX-License-Identifier: Apache-2.0
"""Which ingress is near to whom, as a file says it: TOML, or JSON of the same shape.

    default = "eu"                       # of whom nothing else places; without: the transceiver's own
    trusted_proxies = ["10.0.0.0/8"]     # whose X-Forwarded-For, and whose header, are believed

    [header]                             # that a CDN sets
    name = "CF-IPCountry"
    regions = {DE = "eu", US = "us"}     # value -> region

    [networks]                           # of clients; the longest prefix decides
    "198.51.100.0/24" = "us"

    [regions.eu]
    vips = ["203.0.113.1:3478"]          # without: those of the relays that say that they are there
    next = ["us"]                        # what is near after it, the nearest first

No I/O but the reading of the file.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any, TypeVar

from fleet.region import FORM, is_region
from transceiver.media import Endpoint, IPAddress

MOST = 1024  # regions, values of the header, and networks, each
_VIP = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):(\d{1,5})", re.ASCII)
_HEADER = re.compile(r"[A-Za-z0-9-]{1,64}", re.ASCII)

IPNetwork = IPv4Network | IPv6Network
T = TypeVar("T")


class RegionsError(ValueError):
    """The file is not as it should be; the text begins with the place in it."""


@dataclass(frozen=True)
class Region:
    """Its VIPs, as the file has them, and the regions that are near after it."""

    vips: tuple[Endpoint, ...] = ()
    next: tuple[str, ...] = ()


NOWHERE = Region()


@dataclass(frozen=True)
class Regions:
    """The file's content. Without a file: nothing is known of anybody."""

    default: str = ""
    trusted: tuple[IPNetwork, ...] = ()
    header: str = ""
    by_value: Mapping[str, str] = field(default_factory=dict)  # of the header, in lower case
    networks: tuple[tuple[IPNetwork, str], ...] = ()  # the longest prefix first
    regions: Mapping[str, Region] = field(default_factory=dict)

    def trusts(self, address: IPAddress) -> bool:
        """Whether what that proxy says of its client is believed."""
        return any(address in network for network in self.trusted)

    def of_value(self, value: str) -> str | None:
        """The region of a value of the header."""
        return self.by_value.get(value.strip().lower())

    def of_address(self, address: IPAddress) -> str | None:
        """The region of a client's address."""
        return next((region for network, region in self.networks if address in network), None)

    def after(self, region: str) -> tuple[str, ...]:
        """What is near to those who are near to a region, the nearest first: itself to begin with."""
        return (region, *self.regions.get(region, NOWHERE).next)


def read(path: Path) -> Regions:
    """What the file says.

    Raises:
        OSError: it cannot be read.
        RegionsError: it is not as it should be.
    """
    data = path.read_bytes()
    try:
        text = data.decode()
        content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise RegionsError(f"{path.name}: {error}") from None
    return parse(content)


def parse(content: object) -> Regions:
    """The same, of what TOML or JSON has made of it. Raises RegionsError."""
    top = _table("the file", content, "default", "trusted_proxies", "header", "networks", "regions")
    regions = {
        _region(f"regions.{name}", name): _of_region(f"regions.{name}", value)
        for name, value in _entries("regions", top.get("regions", {}))
    }
    if not regions:
        raise RegionsError("regions: none is there")

    def known(place: str, value: object) -> str:
        name = _region(place, value)
        if name not in regions:
            raise RegionsError(f"{place}: there is no regions.{name}")
        return name

    for name, region in regions.items():
        for index, other in enumerate(region.next):
            known(f"regions.{name}.next[{index}]", other)
    header = _table("header", top.get("header", {}), "name", "regions")
    trusted = tuple(_list("trusted_proxies", top.get("trusted_proxies", []), _network))
    if header and not (isinstance(header.get("name"), str) and _HEADER.fullmatch(header["name"])):
        raise RegionsError("header.name: is not the name of a header")
    if header and not trusted:
        raise RegionsError("header: anybody can set it; trusted_proxies has to say whose is believed")
    networks = [
        (_network(f"networks.{text}", text), known(f"networks.{text}", value))
        for text, value in _entries("networks", top.get("networks", {}))
    ]
    return Regions(
        default=known("default", top["default"]) if "default" in top else "",
        trusted=trusted,
        header=header.get("name", ""),
        by_value={
            value.strip().lower(): known(f"header.regions.{value}", region)
            for value, region in _entries("header.regions", header.get("regions", {}))
        },
        networks=tuple(sorted(networks, key=lambda entry: entry[0].prefixlen, reverse=True)),
        regions=regions,
    )


def _of_region(place: str, value: object) -> Region:
    entry = _table(place, value, "vips", "next")
    vips = tuple(_list(f"{place}.vips", entry.get("vips", []), _vip))
    if len(set(vips)) != len(vips):
        raise RegionsError(f"{place}.vips: one is there twice")
    return Region(vips, tuple(_list(f"{place}.next", entry.get("next", []), _region)))


def _table(place: str, value: object, *keys: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RegionsError(f"{place}: is not a table")
    for key in value:
        if key not in keys:
            raise RegionsError(f"{place}: there is no {key!r} here, but {', '.join(keys)}")
    return value


def _entries(place: str, value: object) -> Iterator[tuple[str, object]]:
    if not isinstance(value, dict):
        raise RegionsError(f"{place}: is not a table")
    if len(value) > MOST:
        raise RegionsError(f"{place}: more than {MOST}")
    yield from value.items()


def _list(place: str, value: object, parse_one: Callable[[str, object], T]) -> Sequence[T]:
    if not isinstance(value, list) or len(value) > MOST:
        raise RegionsError(f"{place}: is not a list of at most {MOST}")
    return [parse_one(f"{place}[{index}]", one) for index, one in enumerate(value)]


def _region(place: str, value: object) -> str:
    if not isinstance(value, str) or not is_region(value):
        raise RegionsError(f"{place}: {value!r} is not the name of a region: {FORM}")
    return value


def _network(place: str, value: object) -> IPNetwork:
    try:
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is not text")
        return ip_network(value)
    except ValueError as error:
        raise RegionsError(f"{place}: {error}") from None


def _vip(place: str, value: object) -> Endpoint:
    match = _VIP.fullmatch(value) if isinstance(value, str) else None
    try:
        if match is None:
            raise ValueError(f"{value!r} is not ADDRESS:PORT or [ADDRESS]:PORT")
        made = Endpoint(ip_address(match[1] or match[2]), int(match[3]))
        if not 0 < made.port < 65536 or made.address.is_unspecified or made.address.is_multicast:
            raise ValueError(f"no client can send to {made}")
    except ValueError as error:
        raise RegionsError(f"{place}: {error}") from None
    return made
