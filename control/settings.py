# SPDX-License-Identifier: Apache-2.0
"""Where settings come from: a TOML file, the environment and flags, in rising precedence."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from control.access import parse_entries
from control.addresses import parse_endpoint
from control.config import Config, FleetKeyFile, ListenAddress, PortRange
from control.errors import ConfigError

ENVIRONMENT_PREFIX = "EARSHOT_"


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


def _boolean(value: object) -> bool:
    words = {"true": True, "1": True, "false": False, "0": False}
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or value.lower() not in words:
        raise ValueError(f"{value!r} is neither true nor false")
    return words[value.lower()]


def _path(value: object) -> Path:
    return Path(_text(value))


def _optional_path(value: object) -> Path | None:
    return _path(value) if value != "" else None


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


def _fleet_key(text: str) -> FleetKeyFile:
    number, equals, path = text.partition("=")
    if not equals or not re.fullmatch(r"\d{1,2}", number, re.ASCII):
        raise ValueError(f"{text!r} is not NUMBER=PATH")
    return FleetKeyFile(int(number), Path(path))


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
    "region": _text,
    "interfaces": _list_of(str),
    "xdp_mode": _text,
    "largest_packet": _integer,
    "vips": _list_of(parse_endpoint),
    "relay_addresses": _list_of(ip_address),
    "relay_ports": _port_range,
    "grpc_socket": _path,
    "grpc_socket_group": _text,
    "grpc_listen": _listen,
    "tls_certificate": _optional_path,
    "tls_key": _optional_path,
    "tls_client_ca": _optional_path,
    "insecure": _boolean,
    "metrics_listen": _listen,
    "pin_path": _path,
    "max_sessions": _integer,
    "max_sessions_per_transceiver": _integer,
    "max_backends": _integer,
    "max_streams": _integer,
    "max_streams_per_identity": _integer,
    "flow_idle_seconds": _integer,
    "grace_seconds": _integer,
    "relay_address_drain_seconds": _integer,
    "source_requests_per_second": _integer,
    "source_exempt": _list_of(ip_network),
    "bindings_per_second": _integer,
    "flows_per_session": _integer,
    "fleet_keys": _list_of(_fleet_key),
    "group_relay_addresses": _list_of(ip_address),
    "group_takeover": _boolean,
    "group_port": _integer,
    "directory": _text,
    "directory_password_file": _optional_path,
    "directory_ca": _optional_path,
    "directory_grace_seconds": _integer,
    "run_time_stats": _text,
    "quality": _boolean,
    "log_level": _text,
}
KEYS = tuple(_PARSERS)
# Tables: for these there is neither a variable nor a flag.
FILE_KEY = "transceivers"
HELP = {
    "name": "The relay's name.  [default: the host's]",
    "region": "Where it is, for transceivers that serve clients of several regions.",
    "interfaces": "Link to attach to; may be repeated.",
    "xdp_mode": "native, generic, or auto: native where all links can.  [default: auto]",
    "largest_packet": "Bytes of the largest IP packet that a call has.  [default: 1500]",
    "vips": "ADDR:PORT or [ADDR6]:PORT that clients send to; may be repeated.",
    "relay_addresses": "The relay's address on the transceivers' side; may be repeated.",
    "relay_ports": "Port range on each relay address.  [default: 10000-32767]",
    "grpc_socket": "Unix socket of the gRPC service.  [default: /run/earshot/earshotd.sock]",
    "grpc_socket_group": "Group that may use the socket.  [default: the daemon's own]",
    "grpc_listen": "HOST:PORT of the gRPC service, for other hosts; needs TLS.  [default: off]",
    "tls_certificate": "The relay's certificate chain, PEM; read again when it changes, as all of TLS.",
    "tls_key": "Its private key, PEM.",
    "tls_client_ca": "Who signs the certificates of transceivers, PEM.",
    "insecure": "Serve grpc_listen without TLS, on a loopback address alone.",
    "metrics_listen": "HOST:PORT of Prometheus metrics; empty: off.  [default: 127.0.0.1:9464]",
    "pin_path": "Where maps and links are pinned, on a bpffs.  [default: /sys/fs/bpf/earshot]",
    "max_sessions": "Server ufrags that can be registered.  [default: 65536]",
    "max_sessions_per_transceiver": "Those that one transceiver can register.  [default: 65536]",
    "max_backends": "Endpoints of transceivers that can be registered.  [default: 65535]",
    "max_streams": "gRPC calls open at a time.  [default: 512]",
    "max_streams_per_identity": "Those of one uid, or of one certificate's names.  [default: 64]",
    "flow_idle_seconds": "A flow without packets for so long is ended.  [default: 60]",
    "grace_seconds": "How long sessions outlive their transceiver's stream.  [default: 30]",
    "relay_address_drain_seconds": "How long flows outlive their relay address's removal.  [default: 3600]",
    "source_requests_per_second": "Requests without a flow from one /32 or /64; 0: any.  [default: 1000]",
    "source_exempt": "Prefix without that limit; may be repeated.",
    "bindings_per_second": "New flows on one CPU; 0: any.  [default: 100000]",
    "flows_per_session": "New flows of one ufrag within flow_idle_seconds; 0: any.  [default: 16]",
    "group_relay_addresses": "Relay address of another relay of the group; may be repeated.",
    "fleet_keys": "NUMBER=PATH of a key that the fleet shares, the one to seal with first; may be repeated.",
    "directory": "redis:// or rediss:// URL by which a region's relays share sessions.  [default: none]",
    "directory_password_file": "Redis's password; a user's name goes into the URL.",
    "directory_ca": "Who signs the certificate of a rediss:// one, PEM.  [default: the system's]",
    "directory_grace_seconds": "How long sessions outlive a relay that went silent.  [default: 300]",
    "group_takeover": "Answer for relay addresses of the group's relays that are gone.  [default: false]",
    "group_port": "UDP port by which they ask each other while Redis is away.  [default: 9466]",
    "run_time_stats": "off, or sampled: what a packet takes, for a second of each minute.  [default: off]",
    "quality": "Measure loss, jitter and round trips of each flow.  [default: true]",
    "log_level": "debug, info, warning or error.  [default: info]",
}
BOOLEANS = frozenset(key for key, parse in _PARSERS.items() if parse is _boolean)
# On by default, so that there is a flag to switch them off, too.
ON = frozenset({"quality"})
# A list is given as one flag for each of its members.
LIST_FLAGS = {
    "interfaces": "--interface",
    "vips": "--vip",
    "relay_addresses": "--relay-address",
    "source_exempt": "--source-exempt",
    "fleet_keys": "--fleet-key",
    "group_relay_addresses": "--group-relay-address",
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
        if key not in _PARSERS and key != FILE_KEY:
            raise ConfigError(key, "there is no such setting")
    given = {key: environment[environment_name(key)] for key in KEYS if environment_name(key) in environment}
    values: dict[str, Any] = {FILE_KEY: parse_entries(file.get(FILE_KEY, []))}
    scalars = {key: value for key, value in file.items() if key != FILE_KEY}
    for key, value in {**scalars, **given, **flags}.items():
        try:
            values[key] = _PARSERS[key](value)
        except ValueError as error:
            raise ConfigError(key, str(error)) from error
    for key in ("interfaces", "vips", "relay_addresses"):
        if key not in values:
            raise ConfigError(key, f"is required ({flag_name(key)}, {environment_name(key)}, or in the file)")
    return Config(**values)
