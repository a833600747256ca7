# SPDX-License-Identifier: Apache-2.0
"""What tests of several clients place their calls through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.lab import two_relays
from tests.lab.calls import wait_for
from tests.lab.netns import Lab
from tests.lab.relay_client import RelayClient
from tests.lab.services import start_relay, start_transceiver
from tests.lab.topology import SIGNALLING_CLIENT, Site, two_armed
from tests.lab.two_relays import AWAY_PORT, Pair

REGIONS = f"""
default = "eu"
[networks]
"{SIGNALLING_CLIENT}/32" = "us"
[regions.eu]
[regions.us]
"""


@pytest.fixture(scope="package")
def site() -> Iterator[Site]:
    """A relay, and a transceiver that echoes; all that passed between them went by XDP."""
    with Lab() as lab:
        made = two_armed(lab)
        start_relay(made)
        start_transceiver(made, [4, 6], "--max-load=1")
        yield made
        assert made.stack_packets() == 0
        assert made.signalling_udp_packets() == 0


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two transceivers: of the region eu, and one for which all clients are in us and have no other way."""
    file = tmp_path_factory.mktemp("regions") / "regions.toml"
    file.write_text(REGIONS)
    with Lab() as lab:
        made = two_relays.two_relays(lab)
        for relay in made.relays:
            two_relays.start_relay(made, relay)
        two_relays.start_transceiver(made, "near", "--region=eu")
        two_relays.start_transceiver(made, "far", f"--regions-file={file}", "--candidates=1", port=AWAY_PORT)
        yield made


@pytest.fixture(scope="module")
def relays(pair: Pair) -> Iterator[list[RelayClient]]:
    with ExitStack() as stack:
        made = [stack.enter_context(RelayClient(relay.target)) for relay in pair.relays]
        wait_for(
            lambda: all(len(relay.transceivers()) == 2 for relay in made), "all attached to both", timeout=30
        )
        yield made
