# SPDX-License-Identifier: Apache-2.0
"""What tests of several clients place their calls through."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.netns import Lab
from tests.lab.services import start_relay, start_transceiver
from tests.lab.topology import Site, two_armed


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
