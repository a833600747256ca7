# SPDX-License-Identifier: Apache-2.0
"""The perfect hash by which the program knows the host's own addresses."""

from __future__ import annotations

from ipaddress import IPv4Address

from hypothesis import given, settings
from hypothesis import strategies as st

from control import abi, local_table
from control.addresses import Endpoint, IPAddress, from_bytes
from control.libbpf import Array

FIRST_RELAY_PORT = 10000

addresses = st.one_of(st.builds(IPv4Address, st.integers(0, 2**32 - 1)), st.ip_addresses(v=6))
vip_ports = st.integers(1, FIRST_RELAY_PORT - 1)
vips = st.lists(st.builds(Endpoint, addresses, vip_ports), max_size=abi.VIP_MAX, unique=True)
relays = st.lists(addresses, max_size=abi.RELAY_MAX, unique=True)


def look_up(table: Array, address: IPAddress, port: int) -> tuple[abi.LocalKind, int]:
    """As the program does: one probe."""
    slot = table["slots"][0][local_table.slot_of(address, port, int(table["seed"][0]))]
    if slot["port"] != port or from_bytes(slot["addr"].tobytes()) != address:
        return abi.LocalKind.NONE, 0
    return abi.LocalKind(slot["kind"]), int(slot["number"])


@settings(max_examples=50, deadline=None)
@given(vips, relays)
def test_every_address_is_found_by_one_probe(vip_list: list[Endpoint], relay_list: list[IPAddress]) -> None:
    vip_list = [vip for vip in vip_list if from_bytes(_mapped(vip.address)) == vip.address]
    relay_list = [relay for relay in relay_list if from_bytes(_mapped(relay)) == relay]
    table = local_table.build(dict(enumerate(vip_list)), dict(enumerate(relay_list)))
    for number, vip in enumerate(vip_list):
        assert look_up(table, vip.address, vip.port) == (abi.LocalKind.VIP, number)
        kind, _ = look_up(table, vip.address, 0)
        assert kind == (abi.LocalKind.RELAY if vip.address in relay_list else abi.LocalKind.OWN)
    for number, relay in enumerate(relay_list):
        assert look_up(table, relay, 0) == (abi.LocalKind.RELAY, number)
    used = {(vip.address, vip.port) for vip in vip_list} | {(vip.address, 0) for vip in vip_list}
    used |= {(relay, 0) for relay in relay_list}
    assert (table["slots"][0]["kind"] != abi.LocalKind.NONE).sum() == len(used)


def _mapped(address: IPAddress) -> bytes:
    return bytes(10) + b"\xff\xff" + address.packed if address.version == 4 else address.packed
