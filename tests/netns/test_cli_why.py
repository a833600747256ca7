# SPDX-License-Identifier: Apache-2.0
"""`earshot why` beside a daemon and a call: what it says, and that nothing comes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from control import frames
from control.abi import Reason
from control.addresses import parse_endpoint
from control.map_types import MAP_TYPES
from tests.lab.calls import Call, call
from tests.lab.services import endpoint
from tests.lab.topology import Site
from tests.netns.command import Said, served
from tests.netns.command import earshot_here as earshot
from tests.netns.schema import assert_fits
from tests.unit.test_frames import pcap

pytestmark = [pytest.mark.root, pytest.mark.netns]

VIP = "203.0.113.1:3478"


class Stage(NamedTuple):
    site: Site
    bound: Call
    waiting: Call  # registered, and nobody has asked for it yet

    @property
    def client(self) -> str:
        return endpoint(self.site.addresses[4].client, self.bound.client.getsockname()[1])

    def why(self, *argv: str) -> Said:
        return earshot(self.site, "why", *argv, "-o", "json")


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with ExitStack() as stack:
        site, _, attachment = stack.enter_context(served("voice-1"))
        calls = [stack.enter_context(call(site, attachment, 4)) for _ in range(2)]
        calls[0].bind()
        yield Stage(site, calls[0], calls[1])


@pytest.fixture
def unchanged(stage: Stage) -> Iterator[None]:
    """All maps that packets change are afterwards as they were."""

    def dumped(name: str) -> list[Any]:
        rows: list[Any] = earshot(stage.site, "map", "dump", name, "-o", "json").json
        # What the hosts say to each other beside the calls, ARP and the like, is counted at any time.
        return [row for row in rows if name != "reasons_v1" or row["key"] > Reason.PASS_NOT_OURS]

    # The daemon looks after next hops at any time.
    names = [name for name in MAP_TYPES if (stage.site.lab.pins / name).exists() and name != "hops_v1"]
    before = {name: dumped(name) for name in names}
    yield
    for name in names:
        assert dumped(name) == before[name], name


def report(said: Said) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(said.out)
    assert_fits("why", made)
    assert made["same_program"]
    return made


@pytest.mark.usefixtures("unchanged")
def test_media_of_a_call_and_of_nobody(stage: Stage) -> None:
    said = stage.why("--from", stage.client, "--to", VIP)
    made = report(said)
    assert (said.status, made["reason"], made["action"]) == (0, "forward_to_transceiver", "REDIRECT")
    leaves = made["leaves"]
    assert leaves["source"] == endpoint(*stage.bound.peer)
    assert leaves["destination"] == endpoint(*stage.bound.transceiver.getsockname())
    assert leaves["link"] == stage.site.transceiver.name
    [flow] = earshot(stage.site, "flow", "list", "-o", "json").json
    assert made["flow_id"] == flow["flow_id"]
    said = stage.why("--from", "198.51.100.10:9", "--to", VIP, "--class", "dtls")
    made = report(said)
    assert (said.status, made["reason"], made["leaves"], made["class"]) == (1, "drop_no_flow", None, "DTLS")
    shown = earshot(stage.site, "why", "--from", "198.51.100.10:9", "--to", VIP).out
    assert "NO   has its 5-tuple a flow?" in shown
    assert "yes  is it for a VIP or a relay port of this relay?  (a VIP)" in shown


@pytest.mark.usefixtures("unchanged")
def test_requests(stage: Stage) -> None:
    said = stage.why(
        "--from", "198.51.100.10:7", "--to", VIP, "--class", "stun", "--ufrag", stage.waiting.ufrag
    )
    made = report(said)
    assert (said.status, made["reason"], made["makes_flow"]) == (0, "forward_bound", True)
    session = made["session"]
    assert session["session_id"] == stage.waiting.session_id
    # Again: the first one has not been bound.
    again = report(
        stage.why("--from", "198.51.100.10:7", "--to", VIP, "--class", "stun", "--ufrag", stage.waiting.ufrag)
    )
    assert again["makes_flow"]
    other = report(
        stage.why("--from", stage.client, "--to", VIP, "--class", "stun", "--ufrag", stage.waiting.ufrag)
    )
    assert other["reason"] == "forward_rebound"
    said = stage.why("--from", "198.51.100.10:7", "--to", VIP, "--class", "stun", "--ufrag", "nobody")
    made = report(said)
    assert (said.status, made["reason"]) == (1, "drop_unknown_ufrag")
    steps = made["steps"]
    assert [step["passed"] for step in steps][-2:] == [True, False]
    assert steps[-2]["detail"] == "nobody"


@pytest.mark.usefixtures("unchanged")
def test_a_forged_request_and_the_way_back(stage: Stage, tmp_path: Path) -> None:
    forged = frames.binding_request(stage.bound.ufrag, lambda message: bytes(20))
    frame = frames.datagram(parse_endpoint("198.51.100.10:7"), parse_endpoint(VIP), forged)
    capture = tmp_path / "two.pcap"
    capture.write_bytes(pcap(b"x" * 60, frame))
    made = report(stage.why("--pcap", str(capture), "--packet", "2"))
    assert made["reason"] == "drop_stun_integrity"
    assert report(stage.why(frame.hex()))["reason"] == "drop_stun_integrity"
    media = endpoint(*stage.bound.transceiver.getsockname())
    back = report(stage.why("--from", media, "--to", endpoint(*stage.bound.peer)))
    assert back["reason"] == "forward_to_client"
    leaves, arrives = back["leaves"], back["arrives"]
    assert (leaves["source"], leaves["destination"]) == (VIP, stage.client)
    assert arrives["link"] == stage.site.transceiver.name
    wrong = report(stage.why("--from", "10.20.0.10:1", "--to", endpoint(*stage.bound.peer)))
    assert wrong["reason"] == "drop_wrong_backend"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ((), "give one of: HEX"),
        (("00", "--from", "10.0.0.1:1", "--to", VIP), "give one of: HEX"),
        (("00 0z",), "line 1, character 5: 'z' is no hex digit"),
        (("0011",), "it ends after 2 bytes"),
        (("--from", "10.0.0.1:1"), "--from and --to go together"),
        (("--from", "10.0.0.1", "--to", VIP), "has no port"),
        (("--from", "[2001:db8::1]:1", "--to", VIP), "not of one family"),
        (("--from", "10.0.0.1:1", "--to", VIP, "--class", "stun"), "--class stun and --ufrag"),
        (("--from", "10.0.0.1:1", "--to", VIP, "--class", "stun", "--ufrag", "a:b"), "is no ufrag"),
        (("--from", "10.0.0.1:1", "--to", VIP, "--link", "nowhere"), "there is no link 'nowhere'"),
        (("--from", "10.0.0.1:1", "--to", VIP, "--link", "lo"), "the program is not on link 'lo'"),
        (("--pcap", "/dev/null"), "offset 0: the file ends within the file's header"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_what_is_no_packet(stage: Stage, argv: tuple[str, ...], said: str) -> None:
    refused = stage.why(*argv)
    assert (refused.status, refused.out) == (2, "")
    assert said in refused.err
