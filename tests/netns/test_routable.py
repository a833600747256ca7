# SPDX-License-Identifier: Apache-2.0
"""Calls whose ufrags say whose they are, at a relay that was told nothing but where its transceivers are."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from earshot.relay.v1 import relay_pb2 as pb

from tests.lab.calls import (
    DEADLINE,
    RTP,
    SOCKET_FAMILY,
    Call,
    binding_request,
    nothing_waits,
    payload,
    wait_for,
)
from tests.lab.netns import Lab
from tests.lab.relay_client import RelayClient
from tests.lab.services import BIN, endpoint, relay_target, start, start_relay
from tests.lab.topology import VIP_PORT, Site, two_armed
from transceiver.routable import Mint, NumberedKey

pytestmark = [pytest.mark.root, pytest.mark.netns]

OLD, NEW = NumberedKey(1, bytes(range(32))), NumberedKey(2, bytes(range(1, 33)))
NUMBER = 4711
MEDIA_PORT = 40000


@pytest.fixture
def site() -> Iterator[Site]:
    with Lab() as lab:
        made = two_armed(lab)
        for key in (OLD, NEW):
            _key_file(made, key).write_text(key.secret.hex() + "\n")
        yield made


def _key_file(site: Site, key: NumberedKey) -> Path:
    return site.lab.dir / f"fleet-{key.number}.key"


def _flag(site: Site, *keys: NumberedKey) -> list[str]:
    return [f"--fleet-key={key.number}={_key_file(site, key)}" for key in keys]


def _place(site: Site, number: int = NUMBER, port: int = MEDIA_PORT) -> pb.Routable:
    addresses = [family.transceiver for family in site.addresses.values()]
    return pb.Routable(number=number, endpoints=[pb.Endpoint(address=one, port=port) for one in addresses])


@contextlib.contextmanager
def _call(site: Site, family: int, key: NumberedKey = OLD, number: int = NUMBER) -> Iterator[Call]:
    """A client that has got its credentials from the transceiver, of which the relay knows nothing."""
    addresses = site.addresses[family]
    credentials = Mint(key, number).session()()
    with (
        site.client.socket(SOCKET_FAMILY[family], timeout=DEADLINE) as client,
        site.transceiver.socket(SOCKET_FAMILY[family], timeout=DEADLINE) as transceiver,
    ):
        client.bind(("", 0))
        transceiver.bind((addresses.transceiver, MEDIA_PORT))
        yield Call(client, transceiver, (addresses.vip, VIP_PORT), "", credentials.ufrag, credentials.pwd)


def _talk(call: Call) -> None:
    call.up(payload(RTP, 160))
    call.down(payload(RTP, 160))


@pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])
def test_a_call_that_the_relay_was_never_told_of(site: Site, family: int) -> None:
    start_relay(site, *_flag(site, OLD), "--grace-seconds=1")
    with RelayClient(relay_target(site)) as relay, _call(site, family) as call:
        with relay.attach("t1", routable=_place(site)) as attachment:
            attachment.snapshot()
            call.bind()
            _talk(call)
            assert relay.sessions() == []
            (flow,) = relay.flows()
            assert (flow.transceiver, flow.session_id) == ("t1", "")
        # Its transceiver is gone for good: the flow ends with the grace period.
        wait_for(lambda: relay.flows() == [], "the flow's end", timeout=10)
        before = relay.counters()["drop_unknown_owner"]
        call.client.sendto(binding_request(call.ufrag, call.pwd), call.vip)
        wait_for(lambda: relay.counters()["drop_unknown_owner"] == before + 1, "a drop")
        assert nothing_waits(call.transceiver)


def test_the_key_changes_and_no_call_is_lost(site: Site) -> None:
    """Relays get the new key first, transceivers next, and the old one dies last."""
    configuration = site.lab.dir / "earshotd.toml"

    def configure(*keys: NumberedKey) -> None:
        addresses = site.addresses.values()
        settings = {
            "interfaces": list(site.interfaces),
            "vips": [endpoint(one.vip, VIP_PORT) for one in addresses],
            "relay_addresses": [one.relay for one in addresses],
            "grpc_socket": f"{site.lab.dir}/earshotd.sock",
            "pin_path": str(site.lab.pins),
            "fleet_keys": [f"{key.number}={_key_file(site, key)}" for key in keys],
        }
        lines = (f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
        configuration.write_text("".join(lines))

    configure(OLD)
    daemon = start(site.lab, site.relay, str(BIN / "earshotd"), f"--config={configuration}")

    def reload(*keys: NumberedKey) -> None:
        before = site.lab.log("earshotd").read_text().count("event=reloaded")
        configure(*keys)
        daemon.send_signal(signal.SIGHUP)
        wait_for(lambda: site.lab.log("earshotd").read_text().count("event=reloaded") > before, "the reload")

    with ExitStack() as stack:
        relay = stack.enter_context(RelayClient(relay_target(site)))
        stack.enter_context(relay.attach("t1", routable=_place(site))).snapshot()

        def refused(key: NumberedKey) -> None:
            before = relay.counters()["drop_unknown_ufrag"]
            with _call_from_elsewhere(site, key) as (client, request, vip):
                client.sendto(request, vip)
                wait_for(lambda: relay.counters()["drop_unknown_ufrag"] == before + 1, "a refusal")

        old = stack.enter_context(_call(site, 4, OLD))
        old.bind()
        _talk(old)
        refused(NEW)
        reload(OLD, NEW)
        _talk(old)
        old.transceiver.close()  # one socket at a time has the port
        with _call(site, 4, NEW) as new:
            new.bind()
            _talk(new)
            reload(NEW)
            _talk(new)
            new.transceiver.settimeout(DEADLINE)
            old.client.sendto(b"\x80still here", old.vip)
            new.receive(b"\x80still here")
            refused(OLD)


@contextlib.contextmanager
def _call_from_elsewhere(
    site: Site, key: NumberedKey
) -> Iterator[tuple[socket.socket, bytes, tuple[str, int]]]:
    credentials = Mint(key, NUMBER).session()()
    with site.client.socket(SOCKET_FAMILY[4], timeout=DEADLINE) as client:
        client.bind(("", 0))
        yield client, binding_request(credentials.ufrag, credentials.pwd), (site.addresses[4].vip, VIP_PORT)


def test_a_registered_call_is_the_same_call(site: Site) -> None:
    """Bound before the relay is told of it: its flow goes on under its name, and ends with it."""
    start_relay(site, *_flag(site, OLD))
    with (
        RelayClient(relay_target(site)) as relay,
        relay.attach("t1", routable=_place(site)) as attachment,
        _call(site, 4) as call,
    ):
        attachment.snapshot()
        peer = call.bind()
        endpoints = [(site.addresses[4].transceiver, MEDIA_PORT)]
        assert attachment.add("c1", call.ufrag, endpoints, call.pwd).code == 0
        call.client.sendto(binding_request(call.ufrag, call.pwd), call.vip)
        call.transceiver.recvfrom(2048)
        assert call.peer == peer
        _talk(call)
        assert [flow.session_id for flow in relay.flows()] == ["c1"]
        wrong = attachment.add("c2", Mint(OLD, NUMBER).session()().ufrag, endpoints, "x" * 22)
        assert (wrong.code, wrong.field) == (grpc.StatusCode.INVALID_ARGUMENT.value[0], "credentials[0].pwd")
        assert attachment.remove("c1").code == 0
        assert relay.flows() == []


def test_places_survive_the_daemon(site: Site) -> None:
    daemon = start_relay(site, *_flag(site, OLD))
    with _call(site, 4) as call:
        with (
            RelayClient(relay_target(site)) as relay,
            contextlib.suppress(grpc.RpcError),
            relay.attach("t1", routable=_place(site)) as attachment,
        ):
            attachment.snapshot()
            call.bind()
            daemon.kill()
            daemon.wait(10)
            _talk(call)
        with _call_from_elsewhere(site, OLD) as (client, request, vip):
            client.sendto(request, vip)  # nobody is there but the program
            call.receive(request)
        start_relay(site, *_flag(site, OLD))
        with (
            RelayClient(relay_target(site)) as relay,
            relay.attach("t1", routable=_place(site)) as attachment,
        ):
            attachment.snapshot()
            _talk(call)
            assert {flow.transceiver for flow in relay.flows()} == {"t1"}
            # Not any more, says its next stream.
        with RelayClient(relay_target(site)) as relay, relay.attach("t1") as attachment:
            attachment.snapshot()
            assert relay.flows() == []


def test_what_cannot_be_is_refused(site: Site) -> None:
    start_relay(site, *_flag(site, OLD))
    code = grpc.StatusCode

    def refusal(relay: RelayClient, name: str, place: pb.Routable) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.RpcError) as caught, relay.attach(name, routable=place) as attachment:
            attachment.snapshot()
        return caught.value.code(), caught.value.details()

    with RelayClient(relay_target(site)) as relay, relay.attach("t1", routable=_place(site)) as first:
        first.snapshot()
        assert refusal(relay, "t2", _place(site, port=40001)) == (
            code.ALREADY_EXISTS,
            f"hello.routable.number: {NUMBER} belongs to another transceiver",
        )
        assert refusal(relay, "t2", _place(site, 65536))[0] is code.INVALID_ARGUMENT
        nowhere = refusal(relay, "t2", pb.Routable(number=1))
        assert nowhere == (
            code.INVALID_ARGUMENT,
            "hello.routable.endpoints: is empty; media has to go somewhere",
        )
        own = pb.Routable(number=1, endpoints=[pb.Endpoint(address=site.addresses[4].relay, port=1)])
        assert "hello.routable.endpoints[0].address" in refusal(relay, "t2", own)[1]
        with relay.attach("t2", routable=_place(site, NUMBER + 1)) as second:
            second.snapshot()


def test_a_relay_without_keys_says_so(site: Site) -> None:
    start_relay(site)
    with RelayClient(relay_target(site)) as relay:
        with pytest.raises(grpc.RpcError) as caught, relay.attach("t1", routable=_place(site)) as attachment:
            attachment.snapshot()
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "fleet_keys" in caught.value.details()
