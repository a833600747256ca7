# SPDX-License-Identifier: Apache-2.0
"""Calls through the XDP relay by other implementations of WebRTC: sound both ways, and a data channel.

The transceiver's echo returns Opus packets as they came, so these are compared byte by byte.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from control import pinned
from control.abi import Way
from tests.lab.calls import wait_for
from tests.lab.relay_client import RelayClient
from tests.lab.services import relay_target, whip_url
from tests.lab.signals import chirps, encode
from tests.lab.topology import Site

pytestmark = [pytest.mark.root, pytest.mark.netns, pytest.mark.e2e]

CLIENTS = Path(__file__).parents[1] / "clients"
SECONDS = 2.0


@pytest.fixture(scope="module")
def packets(site: Site) -> Path:
    """Opus packets in a file, each unlike the others."""
    path = site.lab.dir / "packets.json"
    path.write_text(json.dumps([base64.b64encode(packet).decode() for packet in encode(chirps(5, SECONDS))]))
    return path


def timed(site: Site) -> int:
    """How many flows there have been whose client has answered its transceiver."""
    datapath = pinned.open_pinned(site.lab.pins)
    trips = datapath.quality_more["trips"]["microseconds"][:, Way.DOWN]
    count = int(np.count_nonzero(trips))
    del trips
    datapath.close()
    return count


def verify(site: Site, command: Sequence[str], record_property: Callable[[str, object], None]) -> None:
    """What the client says of its call, that the way to it could be timed, and that nothing is left of it."""
    before = timed(site)
    result = json.loads(site.client.run(*command, timeout=60))
    record_property("result", json.dumps(result))
    assert result["connected"], result
    assert result["data"], result
    assert result["sent"] >= SECONDS * 50
    # The last few may still be in the transceiver's jitter buffer.
    assert result["returned"] >= result["distinct"] - 8, result
    assert result["deleted"] == 200
    assert timed(site) == before + 1
    with RelayClient(relay_target(site)) as relay:
        wait_for(lambda: not relay.sessions(), "the session removed", timeout=10)


@pytest.mark.parametrize("implementation", ["node-datachannel", "werift"])
def test_a_client_of_node(
    site: Site, packets: Path, implementation: str, record_property: Callable[[str, object], None]
) -> None:
    command = ("node", str(CLIENTS / "call.mjs"), implementation, whip_url(), str(packets))
    verify(site, command, record_property)


def test_a_client_of_go(site: Site, packets: Path, record_property: Callable[[str, object], None]) -> None:
    command = (str(CLIENTS.parents[1] / "build" / "pion"), whip_url(), str(packets))
    verify(site, command, record_property)


def test_a_client_of_gstreamer(
    site: Site, packets: Path, record_property: Callable[[str, object], None]
) -> None:
    # Debian's bindings are of the system's Python.
    command = ("/usr/bin/python3", str(CLIENTS / "gstreamer.py"), whip_url(), str(packets))
    verify(site, command, record_property)
