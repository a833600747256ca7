# SPDX-License-Identifier: Apache-2.0
"""Calls by two relays of two regions, a transceiver attached to both: by the nearest, or the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.lab.relay_client import RelayClient
from tests.lab.services import start_calls_at, whip_url
from tests.lab.topology import HTTP_PORT
from tests.lab.two_relays import AWAY_PORT, Pair, media

pytestmark = [pytest.mark.root, pytest.mark.netns, pytest.mark.e2e]


def call(pair: Pair, port: int, result: Path, seconds: int = 2) -> dict[str, Any]:
    """A call of aiortc; what became of it."""
    calling = start_calls_at(pair.lab, pair.client, whip_url(port), 1, seconds, result)
    calling.wait(90)
    (outcome,) = json.loads(result.read_text())["calls"]
    return dict(outcome)


def assert_whole(outcome: dict[str, Any]) -> None:
    assert outcome["error"] is None
    assert outcome["audio_verified"]
    assert outcome["data_channel_verified"]


def since(before: list[int], relays: list[RelayClient]) -> list[int]:
    """Packets of media at each relay since then."""
    return [after - earlier for earlier, after in zip(before, media(relays), strict=True)]


def test_media_takes_the_nearest_and_both_know_the_call(
    pair: Pair, relays: list[RelayClient], tmp_path: Path
) -> None:
    before = media(relays)
    assert_whole(call(pair, HTTP_PORT, tmp_path / "result"))
    near, far = since(before, relays)
    assert near > 80, "two seconds of sound"
    assert far < near / 4, "checks alone"
    assert [relay.sessions() for relay in relays] == [[], []]


def test_it_takes_the_other_where_the_nearest_cannot_be_reached(
    pair: Pair, relays: list[RelayClient], tmp_path: Path
) -> None:
    before = media(relays)
    pair.cut(pair.relays[0])
    try:
        outcome = call(pair, HTTP_PORT, tmp_path / "result")
    finally:
        pair.mend()
    assert_whole(outcome)
    near, far = since(before, relays)
    assert (near, far > 80) == (0, True)


def test_an_ingress_forwards_to_an_owner_in_another_region(
    pair: Pair, relays: list[RelayClient], tmp_path: Path
) -> None:
    """The transceiver is where the first relay is; clients are placed where the second one is."""
    before = media(relays)
    assert_whole(call(pair, AWAY_PORT, tmp_path / "result"))
    near, far = since(before, relays)
    assert (near, far > 80) == (0, True)
