# SPDX-License-Identifier: Apache-2.0
"""Traces from a client's offer to its connected call, of both daemons and joined, at a real collector."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from earshot.relay.v1 import relay_pb2 as pb

from tests.lab.calls import STUN_PWD, new_ufrag, wait_for
from tests.lab.collector import Collector, Kept, collecting
from tests.lab.netns import Lab
from tests.lab.relay_client import RelayClient
from tests.lab.services import relay_target, start_calls, start_relay, start_transceiver, whip_url
from tests.lab.topology import IPV4, Site, two_armed

pytestmark = [pytest.mark.root, pytest.mark.netns, pytest.mark.e2e]

WEB = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def traced() -> Iterator[tuple[Site, Collector]]:
    """Daemons that send their traces, and a call that has been."""
    with Lab() as lab, collecting(lab.dir / "otlp.sock") as collector, pytest.MonkeyPatch.context() as patch:
        site = two_armed(lab)
        for name, value in collector.environment.items():
            patch.setenv(name, value)
        start_relay(site)
        start_transceiver(site, [4], "--max-load=1")
        assert start_calls(site, 1, 1, lab.dir / "calls.json").wait(60) == 0
        yield site, collector


def only(collector: Collector, name: str) -> Kept:
    """The one span of that name, once it is there."""
    wait_for(lambda: bool(collector.spans(name)), f"a span {name}", timeout=20)
    (span,) = collector.spans(name)
    return span


def test_from_the_offer_to_the_connected_call(traced: tuple[Site, Collector]) -> None:
    _, collector = traced
    call = only(collector, "transceiver.call")
    assert (call.service, call.instance, call.parent, call.error) == (
        "earshot-transceiver",
        "transceiver",
        "",
        "",
    )
    for name in ("transceiver.answer", "transceiver.register", "transceiver.connect"):
        part = only(collector, name)
        assert (part.trace, part.parent, part.error) == (call.trace, call.id, ""), name
        assert 0 <= part.nanoseconds <= call.nanoseconds
    relay = only(collector, "relay.add")
    assert (relay.service, relay.instance) == ("earshotd", "relay")
    assert (relay.trace, relay.parent) == (call.trace, only(collector, "transceiver.register").id)
    for name in ("relay.check", "relay.next_hops", "relay.keys", "relay.maps"):
        step = only(collector, name)
        assert (step.service, step.trace, step.parent) == ("earshotd", call.trace, relay.id), name


def test_an_attachment_goes_by_metadata(traced: tuple[Site, Collector]) -> None:
    _, collector = traced
    transceiver = only(collector, "transceiver.attach")
    relay = only(collector, "relay.attach")
    assert (relay.trace, relay.parent) == (transceiver.trace, transceiver.id)


def operation(session_id: str, ufrag: str, traceparent: str) -> pb.Operation:
    return pb.Operation(
        add=pb.Session(
            session_id=session_id,
            credentials=[pb.Credential(ufrag=ufrag, pwd=STUN_PWD)],
            endpoints=[pb.Endpoint(address=IPV4.transceiver, port=5000)],
        ),
        traceparent=traceparent,
    )


def test_a_refused_session_says_why_and_junk_begins_a_trace(traced: tuple[Site, Collector]) -> None:
    site, collector = traced
    with RelayClient(relay_target(site)) as relay, relay.attach("other") as attachment:
        results = attachment.batch(
            operation("bad", "bad ufrag", WEB),
            operation("good", new_ufrag(), ""),
            operation("junk", new_ufrag(), "00-what\0ever" * 100),
        )
        assert [result.code for result in results] == [3, 0, 0]

    call = only(collector, "transceiver.call").trace

    def others() -> list[Kept]:
        return [span for span in collector.spans("relay.add") if span.trace != call]

    wait_for(lambda: len(others()) == 2, "one span for each that named a trace", timeout=20)
    refused, junk = sorted(others(), key=lambda span: span.trace != WEB.split("-")[1])
    assert (refused.trace, refused.parent, refused.error) == (*WEB.split("-")[1:3], "INVALID_ARGUMENT")
    assert (junk.parent, junk.error) == ("", "")


_POST = """
import sys, urllib.error, urllib.request
headers = {"Content-Type": "application/sdp", "traceparent": sys.argv[2]}
try:
    urllib.request.urlopen(urllib.request.Request(sys.argv[1], b"v=0\\r\\n", headers), timeout=20)
except urllib.error.HTTPError as error:
    print(error.code)
"""


def test_a_web_applications_trace_goes_on(traced: tuple[Site, Collector]) -> None:
    """An offer that cannot be served: its span has the application's as its parent, and says why not."""
    site, collector = traced
    before = len(collector.spans("transceiver.call"))
    assert site.client.run(sys.executable, "-c", _POST, whip_url(), WEB) == "422\n"
    wait_for(lambda: len(collector.spans("transceiver.call")) > before, "its span", timeout=20)
    refused = collector.spans("transceiver.call")[-1]
    assert (refused.trace, refused.parent, refused.error) == (*WEB.split("-")[1:3], "OfferError")


def test_spans_hold_nothing_of_a_session(traced: tuple[Site, Collector]) -> None:
    _, collector = traced
    assert {span.attributes for span in collector.spans()} == {()}
