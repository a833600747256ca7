# SPDX-License-Identifier: Apache-2.0
"""Checks of the addresses and ports that a configuration names."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from control.addresses import IPAddress
from control.check.finding import Finding, ok, warning
from control.check.links import Link
from control.config import Config, PortRange

RELAY_PORTS = "relay-ports"  # the name of the finding
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")  # of both families
_RESERVED = Path("/proc/sys/net/ipv4/ip_local_reserved_ports")


def findings(config: Config, own: Mapping[IPAddress, Link]) -> Iterator[Finding]:
    """All of them. `own`: the addresses of the host, and the link that has each."""
    for vip in config.vips:
        yield is_own("vip", vip.address, own, config.interfaces)
    for address in config.relay_addresses:
        yield is_own("relay address", address, own, config.interfaces)
    used = [address for address in config.relay_addresses if address in own]
    if used:
        first, last = map(int, _EPHEMERAL.read_text().split())
        yield relay_ports(config.relay_ports, PortRange(first, last), reserved(_RESERVED.read_text()))


def is_own(
    what: str, address: IPAddress, own: Mapping[IPAddress, Link], interfaces: Collection[str]
) -> Finding:
    """Whether packets to it come to this host, and by a link that has the program."""
    name = f"{what} {address}"
    if address in own:
        link = own[address]
        if link.is_ethernet and link.kind != "dummy" and link.name not in interfaces:
            return warning(
                name,
                f"is an address of {link.name}, which is not among the interfaces",
                f"name {link.name} in interfaces, unless its packets come by another one of them",
            )
        return ok(name, "is an address of this host")
    length = 128 if address.version == 6 else 32
    return warning(
        name,
        "is not an address of this host: fine if it is routed here",
        f"otherwise: ip address add {address}/{length} dev lo, and make neighbours know the way",
    )


def relay_ports(ports: PortRange, ephemeral: PortRange, kept_free: list[PortRange]) -> Finding:
    """Whether the host's own sockets keep out of the ports that the program takes for the relay."""
    first, last = max(ports.first, ephemeral.first), min(ports.last, ephemeral.last)
    if first > last:
        return ok(RELAY_PORTS, f"{ports}: none is given to this host's own sockets ({ephemeral})")
    if all(any(port in span for span in kept_free) for port in range(first, last + 1)):
        return ok(RELAY_PORTS, f"{ports}: reserved, so that this host's own sockets do not get them")
    return warning(
        RELAY_PORTS,
        f"{ports}: this host gives {first}-{last} to its own sockets too, which then get no replies",
        f"add {ports} to net.ipv4.ip_local_reserved_ports (sysctl)",
    )


def reserved(text: str) -> list[PortRange]:
    """The ranges of ip_local_reserved_ports: ``8080,10000-32767``."""
    spans = [part.partition("-") for part in text.strip().split(",") if part]
    return [PortRange(int(first), int(last or first)) for first, _, last in spans]
