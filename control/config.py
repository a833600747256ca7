# SPDX-License-Identifier: Apache-2.0
"""The daemon's settings, checked; control/settings.py makes them of files, environment and flags.

A `Config` that exists is valid as far as that can be told without I/O: whether an interface
is there, an address configured or a folder writable shows where it is used.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from control import abi
from control.access import Entry
from control.addresses import Endpoint, IPAddress, IPNetwork
from control.directory.target import Target
from control.errors import ConfigError
from control.unicast import unicast_fault
from fleet.region import FORM, is_region

XDP_MODES = ("auto", "native", "generic")
RUN_TIME_STATS = ("off", "sampled")
LOG_LEVELS = ("debug", "info", "warning", "error")

# Of IPv6 (RFC 8200, 5): the size that agents of WebRTC keep to, who do not look for a path's MTU.
SMALLEST_MTU = 1280

# sun_path holds 108 bytes, the last of them zero; control/front.py needs four for a socket behind this one.
SOCKET_PATH_MAX = 103

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

    @property
    def is_loopback(self) -> bool:
        """Whether it is a loopback address, written as one: a name may come to mean another."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class FleetKeyFile(NamedTuple):
    """A key that routable ufrags are made with: its number, and the file that holds it."""

    number: int
    path: Path

    def __str__(self) -> str:
        return f"{self.number}={self.path}"


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
    region: str = ""
    xdp_mode: str = "auto"
    largest_packet: int = 1500
    relay_ports: PortRange = DEFAULT_RELAY_PORTS
    grpc_socket: Path = Path("/run/earshot/earshotd.sock")
    grpc_socket_group: str = ""
    grpc_listen: ListenAddress | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    insecure: bool = False
    transceivers: tuple[Entry, ...] = ()
    metrics_listen: ListenAddress | None = DEFAULT_METRICS_LISTEN
    pin_path: Path = Path("/sys/fs/bpf/earshot")
    max_sessions: int = 65536
    max_sessions_per_transceiver: int = 65536
    max_backends: int = 65535
    max_streams: int = 512
    max_streams_per_identity: int = 64
    flow_idle_seconds: int = 60
    grace_seconds: int = 30
    relay_address_drain_seconds: int = 3600
    source_requests_per_second: int = 1000
    source_exempt: tuple[IPNetwork, ...] = ()
    bindings_per_second: int = 100_000
    flows_per_session: int = 16
    fleet_keys: tuple[FleetKeyFile, ...] = ()
    group_relay_addresses: tuple[IPAddress, ...] = ()
    group_takeover: bool = False
    group_port: int = 9466
    directory: str = ""
    directory_password_file: Path | None = None
    directory_ca: Path | None = None
    directory_grace_seconds: int = 300
    run_time_stats: str = "off"
    quality: bool = True
    log_level: str = "info"

    def __post_init__(self) -> None:
        self._check_words()
        self._check_numbers()
        self._check_addresses()
        self._check_access()
        self._check_fleet()

    def _check_words(self) -> None:
        if not _RELAY_NAME.fullmatch(self.name):
            raise ConfigError("name", f"{self.name!r} is not 1 to 253 of A-Za-z0-9._-")
        if self.region and not is_region(self.region):
            raise ConfigError("region", f"{self.region!r} is not {FORM}")
        if not self.interfaces:
            raise ConfigError("interfaces", "name at least one")
        for interface in self.interfaces:
            if not _INTERFACE.fullmatch(interface) or interface in {".", ".."}:
                raise ConfigError("interfaces", f"{interface!r} cannot be the name of a link")
        _no_duplicates("interfaces", self.interfaces)
        for key, words in (
            ("xdp_mode", XDP_MODES),
            ("run_time_stats", RUN_TIME_STATS),
            ("log_level", LOG_LEVELS),
        ):
            if getattr(self, key) not in words:
                raise ConfigError(key, f"{getattr(self, key)!r} is none of {', '.join(words)}")
        for key in ("grpc_socket", "pin_path", "tls_certificate", "tls_key", "tls_client_ca"):
            path: Path | None = getattr(self, key)
            if path is not None and not path.is_absolute():
                raise ConfigError(key, f"{path} is not an absolute path")
        if len(bytes(self.grpc_socket)) > SOCKET_PATH_MAX:
            raise ConfigError("grpc_socket", f"a socket's path has at most {SOCKET_PATH_MAX} bytes here")

    def _check_numbers(self) -> None:
        if not 1 <= self.relay_ports.first <= self.relay_ports.last <= 65535:
            raise ConfigError("relay_ports", f"{self.relay_ports} is not a range within 1-65535")
        for key, least, most in (
            ("largest_packet", SMALLEST_MTU, 65535),
            ("max_sessions", 1, 1 << 24),
            ("max_sessions_per_transceiver", 1, 1 << 24),
            ("max_backends", 2, 65535),
            ("max_streams", 1, 65536),
            ("max_streams_per_identity", 1, 65536),
            ("flow_idle_seconds", 1, 86400),
            ("grace_seconds", 0, 86400),
            ("relay_address_drain_seconds", 0, 30 * 86400),
            ("source_requests_per_second", 0, 1_000_000),
            ("bindings_per_second", 0, 10_000_000),
            ("flows_per_session", 0, 65535),
            ("directory_grace_seconds", 0, 86400),
            ("group_port", 1, 65535),
        ):
            if not least <= getattr(self, key) <= most:
                raise ConfigError(key, f"{getattr(self, key)} is not within {least} to {most}")

    def _check_addresses(self) -> None:
        for key, addresses, most in (
            ("vips", [vip.address for vip in self.vips], abi.VIP_MAX),
            ("relay_addresses", list(self.relay_addresses), abi.RELAY_MAX),
            (
                "group_relay_addresses",
                list(self.group_relay_addresses),
                abi.RELAY_MAX - len(self.relay_addresses),
            ),
        ):
            if not addresses and key != "group_relay_addresses":
                raise ConfigError(key, "name at least one")
            if len(addresses) > most:
                raise ConfigError(key, f"{len(addresses)} are too many: at most {most}")
            for fault in filter(None, map(unicast_fault, addresses)):
                raise ConfigError(key, fault)
        _no_duplicates("vips", self.vips)
        _no_duplicates("relay_addresses", self.relay_addresses)
        _no_duplicates("group_relay_addresses", (*self.relay_addresses, *self.group_relay_addresses))
        relay_families = {address.version for address in self.relay_addresses}
        for vip in self.vips:
            # On an address that is both, a packet must be for one of them alone.
            if vip.port in self.relay_ports:
                raise ConfigError("vips", f"the port of {vip} lies inside relay_ports ({self.relay_ports})")
            if vip.address.version not in relay_families:
                raise ConfigError("relay_addresses", f"no IPv{vip.address.version} one, which {vip} needs")

    def _check_access(self) -> None:
        """Over TCP, every caller proves who it is; without TLS there is nothing but this host."""
        if self.grpc_listen is None:
            return
        files = {key: getattr(self, key) for key in ("tls_certificate", "tls_key", "tls_client_ca")}
        if not self.insecure:
            for key, path in files.items():
                if path is None:
                    raise ConfigError(key, f"grpc_listen ({self.grpc_listen}) needs it, for mutual TLS")
            return
        if any(files.values()):
            raise ConfigError("insecure", "TLS is set up as well: leave out the one or the other")
        if not self.grpc_listen.is_loopback:
            raise ConfigError("insecure", f"grpc_listen ({self.grpc_listen}) is not a loopback address")

    def _check_fleet(self) -> None:
        for key in self.fleet_keys:
            if not 0 <= key.number < abi.FLEET_KEY_MAX:
                raise ConfigError(
                    "fleet_keys", f"key number {key.number} is not 0 to {abi.FLEET_KEY_MAX - 1}"
                )
            if not key.path.is_absolute():
                raise ConfigError("fleet_keys", f"{key.path} is not an absolute path")
        _no_duplicates("fleet_keys", [key.number for key in self.fleet_keys])
        if self.directory and not self.fleet_keys:
            raise ConfigError(
                "directory", "needs fleet_keys: what relays tell each other is sealed with them"
            )
        if self.group_takeover and not (self.group_relay_addresses and self.directory):
            raise ConfigError("group_takeover", "needs group_relay_addresses and a directory")
        if self.group_takeover:
            self._check_group_port()
        self.directory_target  # noqa: B018 - for what it raises

    def _check_group_port(self) -> None:
        """The host has to get what comes there, at each relay address."""
        if self.group_port in self.relay_ports:
            raise ConfigError("group_port", f"lies inside relay_ports ({self.relay_ports})")
        for vip in self.vips:
            if vip.port == self.group_port and vip.address in self.relay_addresses:
                raise ConfigError("group_port", f"{vip} is a VIP")

    @property
    def directory_target(self) -> Target | None:
        """Where the directory is; None: there is none, and this relay's sessions are its own."""
        if not self.directory:
            return None
        return Target.of(self.directory, self.directory_password_file, self.directory_ca)


def _no_duplicates(key: str, values: Sequence[object]) -> None:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ConfigError(key, f"{value} is there twice")
