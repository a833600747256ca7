# SPDX-License-Identifier: Apache-2.0
"""The daemon's settings: a TOML file, the environment and flags, in rising precedence.

A `Config` that exists is valid as far as that can be told without I/O: whether an interface
is there, an address configured or a folder writable shows where it is used.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any, NamedTuple

from control import abi
from control.addresses import Endpoint, IPAddress, parse_endpoint
from control.errors import ConfigError
from control.unicast import unicast_fault

ENVIRONMENT_PREFIX = "EARSHOT_"
XDP_MODES = ("native", "generic")
LOG_LEVELS = ("debug", "info", "warning", "error")

_INTERFACE = re.compile(r"[^\s/:]{1,15}")  # IFNAMSIZ less its final zero; dev_valid_name()
_RELAY_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}")


class PortRange(NamedTuple):
    """UDP ports, both ends included."""

    first: int
    last: int

    def __contains__(self, port: object) -> bool:
        return isinstance(port, int) and self.first <= port <= self.last

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


class ListenAddress(NamedTuple):
    """Where a TCP server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


IPNetwork = IPv4Network | IPv6Network

DEFAULT_RELAY_PORTS = PortRange(10000, 32767)
DEFAULT_METRICS_LISTEN = ListenAddress("127.0.0.1", 9464)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings of earshotd.

    Raises:
        ConfigError: a value is out of bounds, or two do not fit each other.
    """

    interfaces: tuple[str, ...]
    vips: tuple[Endpoint, ...]
    relay_addresses: tuple[IPAddress, ...]
    name: str = field(default_factory=socket.gethostname)
    xdp_mode: str = "native"
    relay_ports: PortRange = DEFAULT_RELAY_PORTS
    grpc_socket: Path = Path("/run/earshot/earshotd.sock")
    grpc_listen: ListenAddress | None = None
    metrics_listen: ListenAddress | None = DEFAULT_METRICS_LISTEN
    pin_path: Path = Path("/sys/fs/bpf/earshot")
    max_sessions: int = 65536
    max_backends: int = 65535
    flow_idle_seconds: int = 60
    grace_seconds: int = 30
    source_requests_per_second: int = 1000
    source_exempt: tuple[IPNetwork, ...] = ()
    bindings_per_second: int = 100_000
    log_level: str = "info"

    def __post_init__(self) -> None:
        self._check_words()
        self._check_numbers()
        self._check_addresses()

    def _check_words(self) -> None:
        if not _RELAY_NAME.fullmatch(self.name):
            raise ConfigError("name", f"{self.name!r} is not 1 to 253 of A-Za-z0-9._-")
        if not self.interfaces:
            raise ConfigError("interfaces", "name at least one")
        for interface in self.interfaces:
            if not _INTERFACE.fullmatch(interface) or interface in {".", ".."}:
                raise ConfigError("interfaces", f"{interface!r} cannot be the name of a link")
        _no_duplicates("interfaces", self.interfaces)
        if self.xdp_mode not in XDP_MODES:
            raise ConfigError("xdp_mode", f"{self.xdp_mode!r} is none of {', '.join(XDP_MODES)}")
        if self.log_level not in LOG_LEVELS:
            raise ConfigError("log_level", f"{self.log_level!r} is none of {', '.join(LOG_LEVELS)}")
        for key in ("grpc_socket", "pin_path"):
            if not getattr(self, key).is_absolute():
                raise ConfigError(key, f"{getattr(self, key)} is not an absolute path")
        # sun_path holds 108 bytes, the last of them zero.
        if len(bytes(self.grpc_socket)) > 107:
            raise ConfigError("grpc_socket", "a unix socket's path has at most 107 bytes")

    def _check_numbers(self) -> None:
        if not 1 <= self.relay_ports.first <= self.relay_ports.last <= 65535:
            raise ConfigError("relay_ports", f"{self.relay_ports} is not a range within 1-65535")
        for key, least, most in (
            ("max_sessions", 1, 1 << 24),
            ("max_backends", 2, 65535),
            ("flow_idle_seconds", 1, 86400),
            ("grace_seconds", 0, 86400),
            ("source_requests_per_second", 0, 1_000_000),
            ("bindings_per_second", 0, 10_000_000),
        ):
            if not least <= getattr(self, key) <= most:
                raise ConfigError(key, f"{getattr(self, key)} is not within {least} to {most}")

    def _check_addresses(self) -> None:
        for key, addresses, most in (
            ("vips", [vip.address for vip in self.vips], abi.VIP_MAX),
            ("relay_addresses", list(self.relay_addresses), abi.RELAY_MAX),
        ):
            if not addresses:
                raise ConfigError(key, "name at least one")
            if len(addresses) > most:
                raise ConfigError(key, f"{len(addresses)} are too many: at most {most}")
            for fault in filter(None, map(unicast_fault, addresses)):
                raise ConfigError(key, fault)
        _no_duplicates("vips", self.vips)
        _no_duplicates("relay_addresses", self.relay_addresses)
        relay_families = {address.version for address in self.relay_addresses}
        for vip in self.vips:
            # On an address that is both, a packet must be for one of them alone.
            if vip.port in self.relay_ports:
                raise ConfigError("vips", f"the port of {vip} lies inside relay_ports ({self.relay_ports})")
            if vip.address.version not in relay_families:
                raise ConfigError("relay_addresses", f"no IPv{vip.address.version} one, which {vip} needs")


def _no_duplicates(key: str, values: Sequence[object]) -> None:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ConfigError(key, f"{value} is there twice")


# ---- from text and TOML values ------------------------------------------------------------


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a string")
    return value


def _integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{value!r} is not a whole number")
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"{value!r} is not a whole number") from None


def _path(value: object) -> Path:
    return Path(_text(value))


def _port_range(value: object) -> PortRange:
    match = re.fullmatch(r"(\d{1,5})-(\d{1,5})", _text(value), re.ASCII)
    if match is None:
        raise ValueError(f"{value!r} is not a range of ports such as 10000-32767")
    return PortRange(int(match[1]), int(match[2]))


def _listen(value: object) -> ListenAddress | None:
    text = _text(value)
    if not text:
        return None
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s\[\]:/]+)):(\d{1,5})", text, re.ASCII)
    if match is None or not 1 <= int(match[3]) <= 65535:
        raise ValueError(f"{text!r} is not HOST:PORT or [ADDRESS]:PORT")
    return ListenAddress(match[1] or match[2], int(match[3]))


def _list_of(parse: Callable[[str], Any]) -> Callable[[object], tuple[Any, ...]]:
    def parse_list(value: object) -> tuple[Any, ...]:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        if not isinstance(value, list | tuple):
            raise ValueError(f"{value!r} is not a list")
        return tuple(parse(_text(item)) for item in value)

    return parse_list


_PARSERS: dict[str, Callable[[object], object]] = {
    "name": _text,
    "interfaces": _list_of(str),
    "xdp_mode": _text,
    "vips": _list_of(parse_endpoint),
    "relay_addresses": _list_of(ip_address),
    "relay_ports": _port_range,
    "grpc_socket": _path,
    "grpc_listen": _listen,
    "metrics_listen": _listen,
    "pin_path": _path,
    "max_sessions": _integer,
    "max_backends": _integer,
    "flow_idle_seconds": _integer,
    "grace_seconds": _integer,
    "source_requests_per_second": _integer,
    "source_exempt": _list_of(ip_network),
    "bindings_per_second": _integer,
    "log_level": _text,
}
KEYS = tuple(_PARSERS)
HELP = {
    "name": "The relay's name.  [default: the host's]",
    "interfaces": "Link to attach to; may be repeated.",
    "xdp_mode": "native or generic.  [default: native]",
    "vips": "ADDR:PORT or [ADDR6]:PORT that clients send to; may be repeated.",
    "relay_addresses": "The relay's address on the transceivers' side; may be repeated.",
    "relay_ports": "Port range on each relay address.  [default: 10000-32767]",
    "grpc_socket": "Unix socket of the gRPC service.  [default: /run/earshot/earshotd.sock]",
    "grpc_listen": "HOST:PORT of the gRPC service, for transceivers on other hosts.  [default: off]",
    "metrics_listen": "HOST:PORT of Prometheus metrics; empty: off.  [default: 127.0.0.1:9464]",
    "pin_path": "Where maps and links are pinned, on a bpffs.  [default: /sys/fs/bpf/earshot]",
    "max_sessions": "Server ufrags that can be registered.  [default: 65536]",
    "max_backends": "Endpoints of transceivers that can be registered.  [default: 65535]",
    "flow_idle_seconds": "A flow without packets for so long is ended.  [default: 60]",
    "grace_seconds": "How long sessions outlive their transceiver's stream.  [default: 30]",
    "source_requests_per_second": "Requests without a flow from one /32 or /64; 0: any.  [default: 1000]",
    "source_exempt": "Prefix without that limit; may be repeated.",
    "bindings_per_second": "New flows on one CPU; 0: any.  [default: 100000]",
    "log_level": "debug, info, warning or error.  [default: info]",
}
# A list is given as one flag for each of its members.
LIST_FLAGS = {
    "interfaces": "--interface",
    "vips": "--vip",
    "relay_addresses": "--relay-address",
    "source_exempt": "--source-exempt",
}


def flag_name(key: str) -> str:
    """The flag that sets a key."""
    return LIST_FLAGS.get(key, "--" + key.replace("_", "-"))


def environment_name(key: str) -> str:
    """The variable that holds a key."""
    return ENVIRONMENT_PREFIX + key.upper()


def build(file: Mapping[str, object], environment: Mapping[str, str], flags: Mapping[str, object]) -> Config:
    """A Config of three sources; flags win over the environment, the environment over the file.

    Args:
        file: what the TOML file holds; keys that do not exist are an error.
        environment: the process's; other variables are left alone.
        flags: by key; only those that were given.

    Raises:
        ConfigError: names the key at fault.
    """
    for key in file:
        if key not in _PARSERS:
            raise ConfigError(key, "there is no such setting")
    given = {key: environment[environment_name(key)] for key in KEYS if environment_name(key) in environment}
    values: dict[str, Any] = {}
    for key, value in {**file, **given, **flags}.items():
        try:
            values[key] = _PARSERS[key](value)
        except ValueError as error:
            raise ConfigError(key, str(error)) from error
    for key in ("interfaces", "vips", "relay_addresses"):
        if key not in values:
            raise ConfigError(key, f"is required ({flag_name(key)}, {environment_name(key)}, or in the file)")
    return Config(**values)
