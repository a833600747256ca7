# SPDX-License-Identifier: Apache-2.0
"""What settings are taken from where, and which are refused, naming the field."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from control import abi
from control.addresses import Endpoint
from control.config import Config, ListenAddress, PortRange
from control.errors import ConfigError
from control.settings import FILE_KEY, KEYS, build, environment_name, flag_name

MINIMAL: dict[str, object] = {
    "interfaces": ["eth0"],
    "vips": ["192.0.2.1:3478"],
    "relay_addresses": ["10.0.0.1"],
}

TOO_MANY_RELAYS = [f"10.0.0.{n + 1}" for n in range(abi.RELAY_MAX + 1)]


def test_defaults() -> None:
    config = build(MINIMAL, {}, {})
    assert config.vips == (Endpoint(ip_address("192.0.2.1"), 3478),)
    assert config.relay_ports == PortRange(10000, 32767)
    assert config.grpc_socket == Path("/run/earshot/earshotd.sock")
    assert config.grpc_listen is None
    assert config.metrics_listen == ListenAddress("127.0.0.1", 9464)
    assert (config.max_sessions, config.max_backends) == (65536, 65535)
    assert (config.flow_idle_seconds, config.grace_seconds) == (60, 30)
    assert config.name


def test_flags_win_over_environment_over_file() -> None:
    file = {**MINIMAL, "grace_seconds": 1, "flow_idle_seconds": 1, "max_sessions": 1}
    environment = {"EARSHOT_GRACE_SECONDS": "2", "EARSHOT_FLOW_IDLE_SECONDS": "2", "PATH": "/bin"}
    config = build(file, environment, {"grace_seconds": "3"})
    assert (config.grace_seconds, config.flow_idle_seconds, config.max_sessions) == (3, 2, 1)


def test_lists_from_the_environment_are_separated_by_commas() -> None:
    environment = {
        "EARSHOT_INTERFACES": "eth0, eth1",
        "EARSHOT_VIPS": "192.0.2.1:3478,[2001:db8::1]:3478",
        "EARSHOT_RELAY_ADDRESSES": "10.0.0.1,fd00::1",
    }
    config = build({}, environment, {})
    assert config.interfaces == ("eth0", "eth1")
    assert [str(vip) for vip in config.vips] == ["192.0.2.1:3478", "[2001:db8::1]:3478"]
    assert config.relay_addresses == (ip_address("10.0.0.1"), ip_address("fd00::1"))


def test_empty_listen_address_turns_it_off() -> None:
    assert build({**MINIMAL, "metrics_listen": ""}, {}, {}).metrics_listen is None


def test_names_of_flags_and_variables() -> None:
    assert flag_name("relay_addresses") == "--relay-address"
    assert flag_name("grace_seconds") == "--grace-seconds"
    assert environment_name("grace_seconds") == "EARSHOT_GRACE_SECONDS"
    assert {*KEYS, FILE_KEY} == set(Config.__dataclass_fields__)


@pytest.mark.parametrize("missing", ["interfaces", "vips", "relay_addresses"])
def test_required(missing: str) -> None:
    file = {key: value for key, value in MINIMAL.items() if key != missing}
    with pytest.raises(ConfigError, match="is required") as caught:
        build(file, {}, {})
    assert caught.value.field == missing


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("interfaces", [], "at least one"),
        ("interfaces", ["eth0", "eth0"], "twice"),
        ("interfaces", ["a name"], "cannot be the name of a link"),
        ("interfaces", ["sixteencharacter"], "cannot be the name of a link"),
        ("interfaces", [1], "not a string"),
        ("interfaces", 1, "not a list"),
        ("vips", [], "at least one"),
        ("vips", ["192.0.2.1"], "no port"),
        ("vips", ["192.0.2.1:0"], "port"),
        ("vips", ["192.0.2.1:65536"], "port"),
        ("vips", ["2001:db8::1:3478"], "brackets"),
        ("vips", ["vip.example:3478"], "does not appear to be"),
        ("vips", ["192.0.2.1:3478", "192.0.2.1:3478"], "twice"),
        ("vips", ["192.0.2.1:10000"], "inside relay_ports"),
        ("vips", ["192.0.2.1:32767"], "inside relay_ports"),
        ("vips", ["224.0.0.1:3478"], "not a unicast"),
        ("vips", ["0.0.0.0:3478"], "not a unicast"),
        ("vips", ["255.255.255.255:3478"], "not a unicast"),
        ("vips", ["127.0.0.1:3478"], "loopback"),
        ("vips", [f"192.0.2.1:{n + 1}" for n in range(abi.VIP_MAX + 1)], f"at most {abi.VIP_MAX}"),
        ("relay_addresses", [], "at least one"),
        ("relay_addresses", ["fd00::1"], "no IPv4 one, which 192.0.2.1:3478 needs"),
        ("relay_addresses", ["10.0.0.1", "10.0.0.1"], "twice"),
        ("relay_addresses", ["10.0.0.1", "fe80::1"], "link-local"),
        ("relay_addresses", ["::ffff:10.0.0.1"], "IPv4-mapped"),
        ("relay_addresses", TOO_MANY_RELAYS, f"at most {abi.RELAY_MAX}"),
        ("relay_ports", "10000", "not a range of ports"),
        ("relay_ports", "20000-10000", "not a range within"),
        ("relay_ports", "0-100", "not a range within"),
        ("relay_ports", "60000-70000", "not a range within"),
        ("xdp_mode", "offload", "none of"),
        ("log_level", "loud", "none of"),
        ("name", "", "is not 1 to 253"),
        ("region", "eu west", "is not 1 to 32"),
        ("region", "e" * 33, "is not 1 to 32"),
        ("grpc_socket", "earshotd.sock", "not an absolute path"),
        ("grpc_socket", "/" + "x" * 103, "at most 103 bytes"),
        ("pin_path", "earshot", "not an absolute path"),
        ("grpc_listen", "1234", "is not HOST:PORT"),
        ("grpc_listen", "host:0", "is not HOST:PORT"),
        ("metrics_listen", "::1:9464", "is not HOST:PORT"),
        ("max_sessions", 0, "is not within"),
        ("max_sessions", True, "not a whole number"),
        ("max_sessions", "many", "not a whole number"),
        ("max_backends", 1, "is not within"),
        ("max_backends", 65536, "is not within"),
        ("flow_idle_seconds", 0, "is not within"),
        ("grace_seconds", -1, "is not within"),
        ("grace_seconds", 1.5, "not a whole number"),
        ("graze_seconds", 1, "no such setting"),
    ],
)
def test_refused(key: str, value: object, match: str) -> None:
    with pytest.raises(ConfigError, match=match) as caught:
        build({**MINIMAL, key: value}, {}, {})
    assert caught.value.field == key


TLS: dict[str, object] = {
    "grpc_listen": "10.0.0.1:9000",
    "tls_certificate": "/c.crt",
    "tls_key": "/c.key",
    "tls_client_ca": "/ca.crt",
}


def test_tls_over_tcp() -> None:
    config = build({**MINIMAL, **TLS}, {}, {})
    assert (config.tls_certificate, config.insecure) == (Path("/c.crt"), False)
    for address in ("127.0.0.1:9000", "[::1]:9000"):
        assert build({**MINIMAL, "grpc_listen": address, "insecure": True}, {}, {}).insecure
    assert build(MINIMAL, {"EARSHOT_INSECURE": "true"}, {}).insecure


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"tls_certificate": ""}, "tls_certificate"),
        ({"tls_key": ""}, "tls_key"),
        ({"tls_client_ca": ""}, "tls_client_ca"),
        ({"tls_key": "c.key"}, "tls_key"),
        ({"insecure": True}, "insecure"),
        ({"insecure": "yes"}, "insecure"),
        (
            {"insecure": True, **dict.fromkeys(("tls_certificate", "tls_key", "tls_client_ca"), "")},
            "insecure",
        ),
        (
            {
                **dict.fromkeys(("tls_certificate", "tls_key", "tls_client_ca"), ""),
                "insecure": True,
                "grpc_listen": "localhost:9000",
            },
            "insecure",
        ),
        ({"max_streams": 0}, "max_streams"),
        ({"max_streams_per_identity": 0}, "max_streams_per_identity"),
        ({"max_sessions_per_transceiver": 0}, "max_sessions_per_transceiver"),
        ({"transceivers": [{}]}, "transceivers[0].identity"),
    ],
)
def test_refused_over_tcp(change: dict[str, object], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build({**MINIMAL, **TLS, **change}, {}, {})
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"directory": "redis://h"}, "directory"),  # without keys
        ({"directory": "redis://:secret@h", "fleet_keys": ["1=/k"]}, "directory"),
        ({"directory": "redis://h", "fleet_keys": ["1=/k"], "directory_ca": "/ca"}, "directory_ca"),
        (
            {"directory": "redis://h", "fleet_keys": ["1=/k"], "directory_grace_seconds": -1},
            "directory_grace_seconds",
        ),
    ],
)
def test_refused_of_the_directory(change: dict[str, object], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build({**MINIMAL, **change}, {}, {})
    assert caught.value.field == field
    assert "secret" not in str(caught.value)


GROUP = {
    "directory": "redis://h",
    "fleet_keys": ["1=/k"],
    "group_takeover": True,
    "group_relay_addresses": ["10.20.0.2"],
}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"group_port": 20000}, "group_port"),  # a relay port
        ({"group_port": 3478, "relay_addresses": ["192.0.2.1"], "vips": ["192.0.2.1:3478"]}, "group_port"),
        ({"group_port": 0}, "group_port"),
        ({"group_relay_addresses": []}, "group_takeover"),
        ({"directory": ""}, "group_takeover"),
    ],
)
def test_refused_of_a_group(change: dict[str, object], field: str) -> None:
    assert build({**MINIMAL, **GROUP}, {}, {}).group_port == 9466
    with pytest.raises(ConfigError) as caught:
        build({**MINIMAL, **GROUP, **change}, {}, {})
    assert caught.value.field == field


def test_a_directory_with_what_belongs_to_it() -> None:
    config = build(
        {**MINIMAL, "directory": "rediss://me@h/2", "fleet_keys": ["1=/k"], "directory_ca": "/ca"}, {}, {}
    )
    assert str(config.directory_target) == "rediss://h:6379/2"
    assert build(MINIMAL, {}, {}).directory_target is None
