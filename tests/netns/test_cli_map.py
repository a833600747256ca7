# SPDX-License-Identifier: Apache-2.0
"""`earshot map`, of a call that is bound and of everything else that the maps then hold."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest

from control import abi, libbpf, pinned
from control.hmac_keys import key_states
from control.map_types import HIDDEN, MAP_TYPES
from tests.lab.calls import STUN_PWD, Call, call
from tests.lab.services import endpoint
from tests.lab.topology import VIP_PORT, Site
from tests.lab.traffic import link_mac
from tests.netns.command import earshot_here as earshot
from tests.netns.command import served
from tests.netns.schema import assert_fits

pytestmark = [pytest.mark.root, pytest.mark.netns]


class Bound(NamedTuple):
    site: Site
    call: Call

    @property
    def client(self) -> str:
        return endpoint(*self.call.client.getsockname()[:2])


@pytest.fixture(scope="module")
def bound() -> Iterator[Bound]:
    """A daemon, and a call of which one Binding Request has come through."""
    with (
        served("voice") as (site, _, attachment),
        call(site, attachment, 4, source=(site.addresses[4].client, 40000)) as made,
    ):
        made.bind()
        yield Bound(site, made)


def test_the_types_are_those_of_the_object() -> None:
    with libbpf.BpfObject(pinned.object_path()) as program:
        shapes = {shape.name: shape for shape in program.map_shapes()}
    assert set(shapes) <= set(MAP_TYPES)
    for name, shape in shapes.items():
        known = MAP_TYPES[name]
        if known.value is not HIDDEN:
            assert np.dtype(known.value).itemsize == shape.value_size, name
        if known.key is not None:
            assert np.dtype(known.key).itemsize == shape.key_size, name


def test_list(bound: Bound) -> None:
    rows = earshot(bound.site, "map", "list", "-o", "json").json
    assert_fits("map list", rows)
    pinned = {pin.name for pin in bound.site.lab.pins.iterdir() if not pin.name.startswith("link_")}
    assert {row["map"] for row in rows} == pinned
    kinds = {row["map"]: row["type"] for row in rows}
    assert (kinds["exempt_v1"], kinds["free_hops_v1"], kinds["sessions_v1"]) == ("lpm_trie", "queue", "hash")
    assert all(row["purpose"] for row in rows)


def test_every_map_can_be_dumped_and_none_shows_a_secret(bound: Bound) -> None:
    inner, outer = key_states([STUN_PWD.encode()])
    secrets = [str(int(word)) for word in (*inner[0], *outer[0])]
    with libbpf.BpfObject(pinned.object_path()) as program:
        names = list(program.map_names())
    for name in names:
        said = earshot(bound.site, "map", "dump", name, "-o", "json")
        assert_fits("map dump", said.json)
        assert not any(secret in said.out for secret in secrets), name
    hidden = earshot(bound.site, "map", "dump", "scratch_v3", "-o", "json")
    assert set(hidden.json[0]["values"]) == {"hidden"}
    assert "is not shown" in hidden.err
    [layout] = earshot(bound.site, "map", "dump", "layout_v1", "-o", "json").json
    assert layout["value"]["hash_key"] == "hidden"
    [session] = earshot(bound.site, "map", "dump", "sessions_v1", "-o", "json").json
    assert session["key"] == bound.call.ufrag
    assert session["value"]["id"] == bound.call.session_id
    assert (session["value"]["inner"], session["value"]["flags"]) == ("hidden", ["has_pwd"])


def test_a_flow_by_each_of_its_keys(bound: Bound) -> None:
    relay_end = endpoint(*bound.call.peer)
    by_tuple = f"{bound.client},{endpoint(*bound.call.vip)}"
    first = earshot(bound.site, "map", "get", "flows_v2", by_tuple, "-o", "json").json
    assert_fits("map get", first)
    number = first["key"]
    assert number == bound.call.peer[1] - 10000
    assert (first["value"]["state"], first["value"]["client_addr"]) == ("live", "198.51.100.10")
    assert (first["value"]["client_port"], first["value"]["up_packets"]) == (40000, 1)
    for key in (relay_end, str(number)):
        assert earshot(bound.site, "map", "get", "flows_v2", key, "-o", "json").json == first
    bucket = earshot(bound.site, "map", "get", "flow_index_v2", by_tuple, "-o", "json").json
    assert bucket["value"]["flows"] == [number]
    [row] = earshot(bound.site, "map", "dump", "flows_v2", "-o", "json").json
    assert row["key"] == number
    assert any("client_port  40000" in line for line in lines(bound, "flows_v2", by_tuple))
    everything = earshot(bound.site, "map", "dump", "vips_v1", "--all", "-o", "json").json
    assert len(everything) == abi.VIP_MAX
    assert everything[0]["value"] == {"addr": "203.0.113.1", "port": VIP_PORT}


def lines(bound: Bound, *argv: str) -> list[str]:
    said = earshot(bound.site, "map", "get", *argv)
    assert said.status == 0, said.err
    return [" ".join(line.split(maxsplit=1)).replace(" ", "  ", 1) for line in said.out.splitlines()]


def test_others_by_what_people_know(bound: Bound) -> None:
    site = bound.site
    link = link_mac(site.relay, site.client.name)
    by_name = earshot(site, "map", "get", "links_v1", site.client.name, "-o", "json").json
    assert by_name["value"]["mac"] == link
    with site.relay.inside():
        ifindex = socket.if_nametoindex(site.client.name)
    assert by_name["key"] == ifindex
    way = earshot(site, "map", "get", "hop_index_v1", f"198.51.100.10%{ifindex}", "-o", "json").json
    assert way["key"] == {"neighbour": "198.51.100.10", "ifindex": ifindex}
    hop = earshot(site, "map", "get", "hops_v1", str(way["value"]), "-o", "json").json["value"]
    assert (hop["smac"], hop["ifindex"]) == (link, ifindex)
    assert hop["resolved"] in ("resolved", "provisional")
    counted = earshot(site, "map", "get", "reasons_v1", "forward_bound", "-o", "json").json
    assert len(counted["values"]) == libbpf.possible_cpus()
    assert sum(value["packets"] for value in counted["values"]) == 1
    spent = earshot(site, "map", "get", "sources_v2", "198.51.100.10", "-o", "json").json
    [cell] = earshot(site, "map", "dump", "sources_v2", "-o", "json").json
    assert (spent["key"], spent["value"]) == (cell["key"], cell["value"])


def test_a_queue_is_looked_at_and_not_emptied(bound: Bound) -> None:
    first = earshot(bound.site, "map", "dump", "free_hops_v1", "-o", "json").json
    assert len(first) == 1
    assert earshot(bound.site, "map", "dump", "free_hops_v1", "-o", "json").json == first


@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        (("flows_v2", "99999999"), 2, "has entries 0 to"),
        (("flows_v2", "198.51.100.7:40000"), 2, "is neither a number, nor CLIENT,VIP"),
        (("flows_v2", "198.51.100.7:1,203.0.113.1:3478"), 2, "no flow is entered under"),
        (("flows_v2", "198.51.100.7:1,203.0.113.9:3478"), 2, "is no VIP of this relay"),
        (("flows_v2", "198.51.100.7,203.0.113.1:3478"), 2, "has no port"),
        (("sessions_v1", "x" * 33), 2, "is not a ufrag"),
        (("sessions_v1", "nobody"), 1, "has no entry nobody"),
        (("links_v1", "no-such-link"), 2, "there is no link"),
        (("hop_index_v1", "10.20.0.9"), 2, "is not NEIGHBOUR%LINK"),
        (("exempt_v1", "198.51.100.7/24"), 2, "host bits"),
        (("reasons_v1", "drop_nothing"), 2, "nor a reason"),
        (("vips_v1", "first"), 2, "is not a number from 0 to 7"),
        (("flows_v9", "1"), 1, "there is no map flows_v9; there are: backends_v1"),
    ],
    ids=lambda value: value[1][:20] if isinstance(value, tuple) else "",
)
def test_keys_that_are_none(bound: Bound, argv: tuple[str, ...], status: int, said: str) -> None:
    refused = earshot(bound.site, "map", "get", *argv)
    assert (refused.status, refused.out) == (status, "")
    assert said in refused.err


def test_a_map_of_another_version_shows_no_values(bound: Bound) -> None:
    fd = libbpf.create_map("sessions_v0", 2, 8, 3)
    libbpf.update(fd, bytes(4), b"a secret")
    pin = bound.site.lab.pins / "sessions_v0"
    libbpf.pin(fd, pin)
    os.close(fd)
    said = earshot(bound.site, "map", "dump", "sessions_v0", "-o", "json")
    pin.unlink()
    assert json.loads(said.out) == [{"key": 0, "value": None}]
    assert "of another version" in said.err
