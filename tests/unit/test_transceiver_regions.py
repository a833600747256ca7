# SPDX-License-Identifier: Apache-2.0
"""Who is near to which ingress: the file's faults, whom it places where, and what is told to clients."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from transceiver.errors import RelayAwayError
from transceiver.ingresses import By, Ingresses, RegionsFile, client_address
from transceiver.media import Endpoint
from transceiver.regions import RegionsError, parse, read
from transceiver.relay_client import RelayClient
from transceiver.relay_target import RelayTarget
from transceiver.relays import Relays

FILE = """
default = "eu"
trusted_proxies = ["10.0.0.0/8", "fd00::/8"]

[header]
name = "CF-IPCountry"
regions = {DE = "eu", US = "us"}

[networks]
"198.51.100.0/24" = "us"
"198.51.100.128/25" = "ap"
"2001:db8::/32" = "ap"

[regions.eu]
vips = ["203.0.113.1:3478", "[2001:db8:f::1]:3478"]
next = ["us"]

[regions.us]
vips = ["203.0.113.2:3478"]

[regions.ap]
"""


def vip(text: str) -> Endpoint:
    host, _, port = text.rpartition(":")
    return Endpoint(ip_address(host.strip("[]")), int(port))


class Known(RelayClient):
    """A relay that has said where it is, and may be away."""

    def __init__(self, region: str, vips: Sequence[str], *, attached: bool = True) -> None:
        super().__init__(RelayTarget(f"unix:/{region}"), "t1", "test", list, lambda _: None)
        self.region = region
        self._vips = [vip(text) for text in vips]
        if attached:
            self._attached.set()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "regions.toml"
    path.write_text(FILE)
    return path


def ingresses(path: Path | None, *relays: Known, region: str = "", most: int = 2) -> Ingresses:
    return Ingresses(RegionsFile(path), Relays(relays), region, most)


def test_json_says_the_same(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "regions.json"
    other.write_text(json.dumps(tomllib.loads(FILE)))
    assert read(other) == read(file)


def test_the_example_of_the_documentation_is_one() -> None:
    page = (Path(__file__).parents[2] / "docs" / "fleet.md").read_text()
    (example,) = (block.partition("```")[0] for block in page.split("```toml\n")[1:] if "[networks]" in block)
    table = parse(tomllib.loads(example))
    assert table.of_address(ip_address("198.51.100.7")) == "us"
    assert table.after("eu") == ("eu", "us")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"regions": {}}, "regions: none is there"),
        ({"regions": {"e u": {}}}, "regions.e u: 'e u' is not the name of a region"),
        ({"regions": {"eu": {"vip": []}}}, "regions.eu: there is no 'vip' here, but vips, next"),
        ({"regions": {"eu": {"vips": ["203.0.113.1"]}}}, "regions.eu.vips[0]: '203.0.113.1' is not ADDRESS"),
        ({"regions": {"eu": {"vips": ["203.0.113.1:0"]}}}, "regions.eu.vips[0]: no client can send"),
        ({"regions": {"eu": {"vips": ["0.0.0.0:3478"]}}}, "regions.eu.vips[0]: no client can send"),
        (
            {"regions": {"eu": {"vips": ["vip.example:3478"]}}},
            "regions.eu.vips[0]: 'vip.example:3478' is not",
        ),
        ({"regions": {"eu": {"vips": ["192.0.2.1:1"] * 2}}}, "regions.eu.vips: one is there twice"),
        ({"regions": {"eu": {"next": ["mars"]}}}, "regions.eu.next[0]: there is no regions.mars"),
        ({"regions": ["eu"]}, "regions: is not a table"),
        ({"default": "mars"}, "default: there is no regions.mars"),
        ({"default": 7}, "default: 7 is not the name"),
        ({"networks": {"198.51.100.1/24": "eu"}}, "networks.198.51.100.1/24: 198.51.100.1/24 has host bits"),
        ({"networks": {"198.51.100.0/24": "mars"}}, "networks.198.51.100.0/24: there is no regions.mars"),
        ({"trusted_proxies": "10.0.0.0/8"}, "trusted_proxies: is not a list"),
        ({"trusted_proxies": [10]}, "trusted_proxies[0]: 10 is not text"),
        ({"header": {"name": "X Y", "regions": {}}}, "header.name: is not the name of a header"),
        ({"header": {"name": "X", "regions": {"DE": "mars"}}}, "header.regions.DE: there is no regions.mars"),
        ({"header": {"name": "X"}, "trusted_proxies": []}, "header: anybody can set it"),
        ({"reginos": {}}, "the file: there is no 'reginos' here"),
    ],
)
def test_faults_are_named_with_their_place(change: dict[str, Any], fault: str) -> None:
    content = {"regions": {"eu": {}}, "trusted_proxies": ["10.0.0.0/8"]} | change
    with pytest.raises(RegionsError) as error:
        parse(content)
    assert str(error.value).startswith(fault)


@pytest.mark.parametrize(
    ("peer", "country", "forwarded", "placed"),
    [
        # Nobody but a trusted proxy is believed, neither in what it says of the country nor of the client.
        ("192.0.2.7", "US", ["198.51.100.1"], ("eu", By.DEFAULT)),
        ("198.51.100.1", "DE", [], ("us", By.NETWORK)),
        ("10.1.2.3", "US", [], ("us", By.HEADER)),
        ("10.1.2.3", "us ", ["198.51.100.200"], ("us", By.HEADER)),
        ("10.1.2.3", "FR", ["198.51.100.200"], ("ap", By.NETWORK)),  # a value that the file has not
        ("10.1.2.3", None, ["198.51.100.1"], ("us", By.NETWORK)),
        ("::ffff:10.1.2.3", None, ["::ffff:198.51.100.1"], ("us", By.NETWORK)),
        # What stands before the address of one who is not trusted, that one may have made up.
        ("10.1.2.3", None, ["2001:db8::1, 198.51.100.1, 10.9.9.9"], ("us", By.NETWORK)),
        ("10.1.2.3", None, ["2001:db8::1", "192.0.2.1"], ("eu", By.DEFAULT)),
        ("10.1.2.3", None, ["nonsense"], ("eu", By.DEFAULT)),
        ("fd00::1", None, ["2001:db8::1"], ("ap", By.NETWORK)),
        (None, "US", ["198.51.100.1"], ("eu", By.DEFAULT)),
    ],
)
def test_clients_are_placed(
    file: Path, peer: str | None, country: str | None, forwarded: list[str], placed: tuple[str, By]
) -> None:
    made = ingresses(file)
    headers = {} if country is None else {"CF-IPCountry": country}
    assert made.place(ip_address(peer) if peer else None, headers, forwarded) == placed[0]
    assert made.placed == {placed: 1}


def test_many_hops_are_not_looked_at() -> None:
    table = parse({"regions": {"eu": {}}, "trusted_proxies": ["10.0.0.0/8"]})
    hops = ["198.51.100.1", *["10.0.0.1"] * 100]
    assert client_address(table, ip_address("10.0.0.2"), hops) == ip_address("10.0.0.1")


def test_the_nearest_come_first_and_two_are_enough(file: Path) -> None:
    made = ingresses(file, Known("eu", ["203.0.113.1:3478"]), Known("ap", ["203.0.113.3:3478"]))
    assert made.near("eu") == [vip("[2001:db8:f::1]:3478"), vip("203.0.113.1:3478"), vip("203.0.113.2:3478")]
    assert made.near("us") == [vip("[2001:db8:f::1]:3478"), vip("203.0.113.2:3478"), vip("203.0.113.1:3478")]
    # Of a region without VIPs in the file: what the relay there has said.
    assert made.near("ap")[1:] == [vip("203.0.113.3:3478"), vip("203.0.113.1:3478")]
    only = ingresses(file, Known("eu", ["203.0.113.1:3478"]), most=1)
    assert only.near("us") == [vip("[2001:db8:f::1]:3478"), vip("203.0.113.2:3478")]


def test_a_relay_that_is_away_comes_last(file: Path) -> None:
    gone, there = Known("eu", ["203.0.113.1:3478"], attached=False), Known("us", ["203.0.113.2:3478"])
    made = ingresses(file, gone, there)
    assert made.near("eu")[1:] == [vip("203.0.113.2:3478"), vip("203.0.113.1:3478")]
    with pytest.raises(RelayAwayError):
        ingresses(file, gone).near("eu")


def test_without_a_file_it_is_the_relays_that_say(file: Path) -> None:
    relays = Known("eu", ["192.0.2.1:1", "192.0.2.2:1", "[2001:db8::1]:1"]), Known("us", ["192.0.2.3:1"])
    made = ingresses(None, *relays)
    assert made.place(ip_address("192.0.2.7")) == "eu"
    assert made.near("eu") == [vip("[2001:db8::1]:1"), vip("192.0.2.1:1"), vip("192.0.2.3:1")]
    assert ingresses(None, *relays, region="us").place(ip_address("192.0.2.7")) == "us"
    assert ingresses(None, *relays).near("us")[1] == vip("192.0.2.3:1")


def test_relays_of_a_region_take_turns() -> None:
    made = ingresses(None, *(Known("eu", [f"192.0.2.{number}:1"]) for number in (1, 2, 3)), most=1)
    firsts = [made.near("eu")[0] for _ in range(6)]
    assert firsts == [vip(f"192.0.2.{number}:1") for number in (1, 2, 3, 1, 2, 3)]


def test_a_changed_file_is_read_and_a_wrong_one_changes_nothing(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = ingresses(file, Known("eu", ["203.0.113.1:3478"]), most=1)
    peer = ip_address("192.0.2.7")
    assert made.place(peer) == "eu"
    file.write_text(FILE.replace('default = "eu"', 'default = "us"'))
    assert made.place(peer) == "us"
    file.write_text("default = ")
    assert [made.place(peer) for _ in range(3)] == ["us"] * 3
    assert caplog.messages.count("regions_not_read") == 1
    file.unlink()
    assert [made.place(peer) for _ in range(3)] == ["us"] * 3
    assert caplog.messages.count("regions_not_read") == 2
    file.write_text(FILE)
    assert made.place(peer) == "eu"
