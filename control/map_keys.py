# SPDX-License-Identifier: Apache-2.0
"""Keys of maps as people write them: numbers, ufrags, addresses, 5-tuples.

A 5-tuple is CLIENT,VIP, both ADDRESS:PORT or [ADDRESS]:PORT: the protocol is UDP.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address, ip_network

import numpy as np
from numpy.typing import NDArray

from control import abi, flow_index
from control.addresses import Endpoint, IPAddress, parse_endpoint, to_bytes
from control.datapath import STATE_MASK, Datapath
from control.layout import FAMILIES, Layout
from control.libbpf import Array

_SPREAD = 0x9E3779B97F4A7C15


class KeyFault(ValueError):
    """What was given is not a key of that map; the text says what would be."""


def parse(name: str, text: str, entries: int, is_numbered: bool, tables: Callable[[], Datapath]) -> Array:
    """The key of a map's entry, an array of one.

    Args:
        name: of the map.
        entries: how many it has.
        is_numbered: whether its keys are numbers; any map of that kind takes one.
        tables: the datapath, asked for only where a key follows from other maps.

    Raises:
        KeyFault: it is not one.
    """
    base = name.rpartition("_v")[0]
    number = int(text) if text.isascii() and text.isdecimal() else None
    if is_numbered and number is not None:
        if number >= entries:
            raise KeyFault(f"{name} has entries 0 to {entries - 1}, and no {number}")
        return np.array([number], np.uint32)
    parser = _PARSERS.get(base)
    if parser is None:
        raise KeyFault(f"{text!r} is not a number from 0 to {entries - 1}")
    try:
        return parser(text, tables)
    except KeyFault:
        raise
    except ValueError as error:
        raise KeyFault(str(error)) from error


def flow_key(client: Endpoint, vip: Endpoint, vips: Sequence[Endpoint]) -> Array:
    """The abi.FLOW_KEY of a 5-tuple. Raises KeyFault where there is no such VIP."""
    if vip not in vips:
        raise KeyFault(f"{vip} is no VIP of this relay; its VIPs: {', '.join(map(str, vips)) or 'none'}")
    key = np.zeros(1, abi.FLOW_KEY)
    key["client_addr"], key["client_port"] = np.void(to_bytes(client.address)), client.port
    key["vip"] = vips.index(vip)
    return key


def home_of(key: Array, layout: Layout) -> int:
    """The bucket of flow_index_v2 that a flow's entry belongs in."""
    return int(flow_index.places_of(key.view(np.uint32).reshape(1, -1), layout).buckets[0])


def records_of(key: Array, datapath: Datapath) -> NDArray[np.uint32]:
    """The flow records that are entered under a 5-tuple, in whatever state, those that are LIVE first."""
    layout = datapath.layout
    words = key.view(np.uint32).reshape(1, -1)
    place = flow_index.places_of(words, layout)
    buckets = (int(place.buckets[0]) + np.arange(abi.SlotBit.TURNS)) % layout.buckets
    slots = datapath.index[buckets][:, abi.BucketWord.FIRST_SLOT :].ravel()
    tagged = slots[(slots ^ place.slots[0]) < (1 << abi.SlotBit.NUMBER_BITS)]
    numbers = np.unique(tagged & np.uint32((1 << abi.SlotBit.NUMBER_BITS) - 1)).astype(np.uint32)
    numbers = numbers[numbers < len(datapath.flows)]
    numbers = numbers[(flow_index.keys_of(datapath.flows, numbers) == words).all(axis=1)]
    states = datapath.flows["state"][numbers] & STATE_MASK
    ordered: NDArray[np.uint32] = numbers[np.argsort(states != abi.FlowState.LIVE, kind="stable")]
    return ordered


def source_cell(address: IPAddress, layout: Layout) -> int:
    """The entry of sources_v2 that is a source's, a /32 or a /64 (bpf/budget.h)."""
    raw = np.frombuffer(to_bytes(address), np.uint32).tolist()
    upper, lower = (raw[3], 0) if address.version == 4 else (raw[0], raw[1])
    first, second = layout.hash_key[6:8]
    h = (upper + first & 0xFFFFFFFF) * (lower + second & 0xFFFFFFFF)
    return int((((h ^ h >> 32) * _SPREAD) & 0xFFFFFFFFFFFFFFFF) >> 48)


def parse_tuple(text: str) -> tuple[Endpoint, Endpoint]:
    """CLIENT,VIP. Raises KeyFault."""
    client, comma, vip = text.partition(",")
    if not comma:
        raise KeyFault(f"{text!r} is not CLIENT,VIP, such as 198.51.100.7:40000,203.0.113.1:3478")
    return parse_endpoint(client.strip()), parse_endpoint(vip.strip())


# ---- by map ------------------------------------------------------------------------------

_Tables = Callable[[], Datapath]


def _ufrag(text: str, tables: _Tables) -> Array:
    raw = text.encode()
    if not 1 <= len(raw) <= abi.UFRAG_MAX:
        raise KeyFault(f"{text!r} is not a ufrag of 1 to {abi.UFRAG_MAX} bytes")
    return np.array([(raw,)], abi.UFRAG_KEY)


def _ifindex(text: str, tables: _Tables) -> Array:
    if text.isascii() and text.isdecimal() and int(text) < 1 << 32:
        return np.array([int(text)], np.uint32)
    try:
        return np.array([socket.if_nametoindex(text)], np.uint32)
    except OSError as error:
        raise KeyFault(f"there is no link {text!r} in this network namespace") from error


def _hop(text: str, tables: _Tables) -> Array:
    neighbour, percent, link = text.rpartition("%")
    if not percent:
        raise KeyFault(f"{text!r} is not NEIGHBOUR%LINK, such as 10.20.0.9%eth1 or 10.20.0.9%3")
    key = np.zeros(1, abi.HOP_KEY)
    key["neighbour"] = np.void(to_bytes(ip_address(neighbour)))
    key["ifindex"] = _ifindex(link, tables)
    return key


def _prefix(text: str, tables: _Tables) -> Array:
    network = ip_network(text)
    key = np.zeros(1, abi.PREFIX_KEY)
    key["bits"] = network.prefixlen + (96 if network.version == 4 else 0)
    key["addr"] = np.void(to_bytes(network.network_address))
    return key


def _reason(text: str, tables: _Tables) -> Array:
    try:
        return np.array([abi.Reason[text.upper()]], np.uint32)
    except KeyError as error:
        raise KeyFault(f"{text!r} is neither a number nor a reason of bpf/README.md") from error


def _family(text: str, tables: _Tables) -> Array:
    names = [f"ipv{family}" for family in FAMILIES]
    if text.lower() not in names:
        raise KeyFault(f"{text!r} is neither a number nor one of {', '.join(names)}")
    return np.array([names.index(text.lower())], np.uint32)


def _bucket(text: str, tables: _Tables) -> Array:
    datapath = tables()
    return np.array([home_of(flow_key(*parse_tuple(text), datapath.vips), datapath.layout)], np.uint32)


def _flow(text: str, tables: _Tables) -> Array:
    datapath = tables()
    if "," in text:
        numbers = records_of(flow_key(*parse_tuple(text), datapath.vips), datapath)
        if not len(numbers):
            raise KeyFault(f"no flow is entered under {text}")
        return numbers[:1]
    end = parse_endpoint(text)
    layout = datapath.layout
    if end.address not in datapath.relays or not layout.port_min <= end.port <= layout.port_max:
        raise KeyFault(f"{text!r} is neither a number, nor CLIENT,VIP, nor the RELAY:PORT of a record")
    return np.array([layout.number(datapath.relays.index(end.address), end.port)], np.uint32)


def _cell(text: str, tables: _Tables) -> Array:
    return np.array([source_cell(ip_address(text), tables().layout)], np.uint32)


_PARSERS: Mapping[str, Callable[[str, _Tables], Array]] = {
    "sessions": _ufrag,
    "links": _ifindex,
    "hop_index": _hop,
    "exempt": _prefix,
    "reasons": _reason,
    "free_lists": _family,
    "flow_index": _bucket,
    "flows": _flow,
    "sources": _cell,
}
