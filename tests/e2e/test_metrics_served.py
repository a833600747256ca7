# SPDX-License-Identifier: Apache-2.0
"""Both daemons serve exactly what their catalogues declare, and a call moves what it should."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from prometheus_client.core import Metric

from control.metrics import catalogue as relay_catalogue
from telemetry.declared import Declared, Kind
from tests.lab import scraping
from tests.lab.calls import wait_for
from tests.lab.netns import Lab
from tests.lab.services import start_calls, start_relay, start_transceiver
from tests.lab.topology import HTTP_PORT, SIGNALLING_TRANSCEIVER, Site, two_armed
from transceiver import catalogue as transceiver_catalogue

pytestmark = [pytest.mark.root, pytest.mark.netns, pytest.mark.e2e]

PORT = 9558
_OF_THE_CLIENT = ("process_",)  # of prometheus_client itself


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A relay, a transceiver with a worker too many, and two calls that have been."""
    with Lab() as lab:
        site = two_armed(lab)
        start_relay(site, f"--metrics-listen=127.0.0.1:{PORT}")
        start_transceiver(site, [4], "--max-load=1", "--workers=2")
        result = tmp_path_factory.mktemp("calls") / "calls.json"
        calling = start_calls(site, 2, 1, result)
        assert calling.wait(60) == 0
        assert all(call["connected"] for call in json.loads(Path(result).read_text())["calls"])
        yield site


def served(site: Site, whose: str) -> list[Metric]:
    if whose == "relay":
        return scraping.families(site.relay, "127.0.0.1", PORT)
    return scraping.families(site.transceiver, SIGNALLING_TRANSCEIVER, HTTP_PORT)


@pytest.mark.parametrize(
    ("whose", "declared"),
    [("relay", relay_catalogue.ALL), ("transceiver", transceiver_catalogue.ALL)],
    ids=["relay", "transceiver"],
)
def test_what_is_served_is_what_is_declared(called: Site, whose: str, declared: Sequence[Declared]) -> None:
    families = {
        family.name: family for family in served(called, whose) if not family.name.startswith(_OF_THE_CLIENT)
    }
    # In the text, how many there are now, by size, is a histogram and two gauges beside it.
    extra = {
        f"{one.name}_{part}"
        for one in declared
        if one.kind is Kind.GAUGE_HISTOGRAM
        for part in ("gcount", "gsum")
    }
    assert families.keys() - extra == {one.name for one in declared}
    for one in declared:
        family = families[one.name]
        kind = Kind.HISTOGRAM if one.kind is Kind.GAUGE_HISTOGRAM else one.kind
        assert (family.type, family.documentation) == (kind, one.text), one.name
        wanted = {*one.labels}
        if whose == "transceiver" and one not in transceiver_catalogue.OF_THE_FRONT:
            wanted.add("worker")
        for sample in family.samples:
            assert sample.name in one.sample_names
            assert {*sample.labels} - {"le"} == wanted, sample


def test_a_call_moves_what_it_should(called: Site) -> None:
    def settled() -> bool:
        values = scraping.values_of(served(called, "relay"))
        return values["earshot_sessions",] == 0 and values["earshot_flows",] == 0

    wait_for(settled, "both calls are over", timeout=60)
    relay = scraping.values_of(served(called, "relay"))
    assert relay["earshot_bindings_total", "bound"] >= 2
    assert relay["earshot_session_operations_total", "OK", "add"] >= 2
    assert relay["earshot_datapath_packets_total", "to_client", "forward_to_client"] > 50
    transceiver = scraping.values_of(served(called, "transceiver"))

    def of_workers(*key: str) -> float:
        return sum(value for name, value in transceiver.items() if name[:-1] == key)

    assert of_workers("earshot_transceiver_setups_total", "connected") == 2
    assert of_workers("earshot_transceiver_setup_seconds_count") == 2
    assert of_workers("earshot_transceiver_relay_attached") == 2
    assert transceiver["earshot_transceiver_workers",] == 2
