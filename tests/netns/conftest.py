# SPDX-License-Identifier: Apache-2.0
"""A relay that runs in a site of hosts, and what tests hold of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.lab.netns import Lab
from tests.lab.relay_client import Attachment, RelayClient
from tests.lab.services import relay_target, start_relay
from tests.lab.topology import Site, one_armed, two_armed


@pytest.fixture(scope="module", params=[two_armed, one_armed], ids=["two-armed", "one-armed"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A site with earshotd serving in its relay host."""
    build: Callable[[Lab], Site] = request.param
    with Lab() as lab:
        made = build(lab)
        start_relay(made)
        yield made


@pytest.fixture
def relay(site: Site) -> Iterator[RelayClient]:
    with RelayClient(relay_target(site)) as client:
        yield client


@pytest.fixture
def attachment(relay: RelayClient) -> Iterator[Attachment]:
    """A transceiver's stream. The test has the transceiver's sockets itself."""
    with relay.attach("transceiver") as made:
        yield made


@pytest.fixture(params=[4, 6], ids=["v4", "v6"])
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def nothing_past_xdp(site: Site) -> Iterator[None]:
    """No UDP packet to a VIP reaches the relay host's own stack while the test runs."""
    before = site.stack_packets()
    yield
    assert site.stack_packets() == before
