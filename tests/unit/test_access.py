# SPDX-License-Identifier: Apache-2.0
"""Who may attach as what, register where, and see whom."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from control.access import Caller, Policy, parse_entries
from control.callers import caller_of
from control.errors import ConfigError
from control.requests import Code, RequestError

VOICE = {
    "identity": "san:voice-1.example",
    "names": ["voice-*"],
    "addresses": ["10.20.0.0/24", "fd00:20::/64"],
}
LOCAL = {"identity": "uid:1000", "names": ["local"], "addresses": ["10.30.0.0/24"]}


def policy(*tables: dict[str, Any]) -> Policy:
    return Policy(parse_entries(list(tables)))


def tcp(*identities: str) -> Caller:
    return Caller(identities, is_local=False)


def unix(uid: int) -> Caller:
    return Caller((f"uid:{uid}",), is_local=True)


def test_without_entries_the_socket_is_open_and_tcp_is_closed() -> None:
    grant = policy().grant(unix(7))
    assert grant.prefixes("anyone") is None
    assert grant.sees("anyone")
    assert not grant.is_empty
    stranger = policy().grant(tcp("san:voice-1.example"))
    assert stranger.is_empty
    assert stranger.prefixes("voice-1") == ()
    assert not stranger.sees("voice-1")


def test_entries_say_who_attaches_as_what_and_where() -> None:
    grant = policy(VOICE, LOCAL).grant(tcp("san:other.example", "san:voice-1.example"))
    assert grant.prefixes("voice-9") == (ip_network("10.20.0.0/24"), ip_network("fd00:20::/64"))
    assert grant.prefixes("local") == ()
    assert grant.sees("voice-9")
    assert not grant.sees("local")


def test_with_entries_a_local_caller_needs_one_to_attach_but_not_to_read() -> None:
    rules = policy(VOICE, LOCAL)
    assert rules.grant(unix(1000)).prefixes("local") == (ip_network("10.30.0.0/24"),)
    assert rules.grant(unix(0)).prefixes("local") == ()
    assert rules.grant(unix(0)).sees("voice-1")


def test_prefixes_of_one_name_are_not_lent_to_another() -> None:
    other = {**VOICE, "names": ["batch"], "addresses": ["10.40.0.0/24"]}
    grant = policy(VOICE, other).grant(tcp("san:voice-1.example"))
    assert grant.prefixes("batch") == (ip_network("10.40.0.0/24"),)
    assert ip_network("10.40.0.0/24") not in (grant.prefixes("voice-1") or ())


def test_a_uid_over_tcp_and_a_san_by_the_socket_are_nobody() -> None:
    rules = policy({**LOCAL, "identity": "uid:1000"}, {**VOICE, "identity": "loopback"})
    assert rules.grant(tcp("san:uid:1000")).is_empty
    assert rules.grant(tcp("loopback")).prefixes("voice-1")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"identity": "root"}, "identity"),
        ({"identity": "uid:x"}, "identity"),
        ({"identity": "uid:-1"}, "identity"),
        ({"identity": "uid:01"}, "identity"),
        ({"identity": "san:"}, "identity"),
        ({"identity": "san:a b"}, "identity"),
        ({"identity": 1000}, "identity"),
        ({"names": []}, "names"),
        ({"names": "voice"}, "names"),
        ({"names": ["a b"]}, "names"),
        ({"names": ["[a]"]}, "names"),
        ({"addresses": []}, "addresses"),
        ({"addresses": ["10.20.0.1/24"]}, "addresses"),
        ({"addresses": [1]}, "addresses"),
        ({"adresses": []}, "adresses"),
    ],
)
def test_bad_tables_name_the_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        policy(LOCAL, {**VOICE, **change})
    assert caught.value.field == f"transceivers[1].{field}"


@pytest.mark.parametrize("key", ["identity", "names", "addresses"])
def test_every_key_is_required(key: str) -> None:
    with pytest.raises(ConfigError, match="is required") as caught:
        policy({name: value for name, value in VOICE.items() if name != key})
    assert caught.value.field == f"transceivers[0].{key}"


@pytest.mark.parametrize("tables", [{"identity": "uid:1"}, "uid:1", ["uid:1"]])
def test_what_is_no_table(tables: object) -> None:
    with pytest.raises(ConfigError, match=r"\[\[transceivers\]\]"):
        parse_entries(tables)


class Context:
    """What of a servicer context says who calls."""

    def __init__(self, peer: str, **properties: list[bytes]) -> None:
        self._peer = peer
        self._properties = properties

    def peer(self) -> str:
        return self._peer

    def auth_context(self) -> dict[str, list[bytes]]:
        return self._properties


def tls(**names: list[bytes]) -> Context:
    return Context("ipv4:192.0.2.1:5", transport_security_type=[b"ssl"], **names)


def test_callers() -> None:
    peers = {"unix-abstract:earshotd-1": 1000}
    assert caller_of(Context("unix-abstract:earshotd-1"), peers) == unix(1000)
    plain = Context("ipv6:%5B::1%5D:5", transport_security_type=[b"insecure"])
    assert caller_of(plain, peers) == tcp("loopback")
    both = tls(peer_dns=[b"Voice-1.Example"], peer_uri=[b"spiffe://x/Voice"], x509_common_name=[b"root"])
    assert caller_of(both, peers) == tcp("san:spiffe://x/Voice", "san:voice-1.example")
    assert caller_of(tls(x509_common_name=[b"voice-1.example"]), peers) == tcp()


def test_a_uri_is_not_taken_for_a_dns_name() -> None:
    assert caller_of(tls(peer_uri=[b"voice-1.example"], peer_dns=[b"uid:0"]), {}) == tcp()


@pytest.mark.parametrize("peer", ["unix:", "unix-abstract:earshotd-2", "", "vsock:1"])
def test_a_connection_that_nobody_vouches_for(peer: str) -> None:
    with pytest.raises(RequestError) as caught:
        caller_of(Context(peer), {"unix-abstract:earshotd-1": 0})
    assert caught.value.code == Code.UNAUTHENTICATED
