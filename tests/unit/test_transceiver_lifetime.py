# SPDX-License-Identifier: Apache-2.0
"""How calls end, and how a transceiver and its relay lose and find each other."""

from __future__ import annotations

import asyncio
import re
import signal
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from urllib.parse import urljoin

import aiohttp
from aiortc import RTCBundlePolicy, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.rtp import RtcpRrPacket
from click.testing import CliRunner

from tests.lab.caller import CallResult, bind_to, place_call
from tests.lab.restart import connection_of
from tests.unit.test_transceiver_sdp import OFFER
from tests.unit.transceiver_world import (
    CLIENT,
    Transceiver,
    eventually,
    metric,
    open_socket,
    running_relay,
    running_transceiver,
)
from transceiver import checks
from transceiver.main import main

SDP = {"Content-Type": "application/sdp"}


async def post(transceiver: Transceiver) -> int:
    async with (
        aiohttp.ClientSession() as http,
        http.post(transceiver.whip, data=OFFER, headers=SDP) as response,
    ):
        return response.status


async def silent_call(transceiver: Transceiver) -> RTCPeerConnection:
    """A client that sends no sound, once it has its answer. The caller closes it."""
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
    peer.addTransceiver("audio")
    bind_to(peer, CLIENT)
    await peer.setLocalDescription(await peer.createOffer())
    offer = peer.localDescription.sdp
    async with (
        aiohttp.ClientSession() as http,
        http.post(transceiver.whip, data=offer, headers=SDP) as response,
    ):
        await peer.setRemoteDescription(RTCSessionDescription(await response.text(), "answer"))
    return peer


async def health(transceiver: Transceiver) -> int:
    async with aiohttp.ClientSession() as http, http.get(f"{transceiver.url}/healthz") as response:
        return response.status


@asynccontextmanager
async def calling(transceiver: Transceiver, seconds: float) -> AsyncIterator[asyncio.Task[CallResult]]:
    """A call that is under way."""
    connected = transceiver.log.count("event=call_connected")
    task = asyncio.create_task(place_call(transceiver.whip, seconds=seconds, local_address=CLIENT))
    try:
        await eventually(lambda: transceiver.log.count("event=call_connected") > connected)
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_call_that_never_connects_is_cleaned_up() -> None:
    async with running_relay() as relay, running_transceiver(relay, "--setup-timeout", "0.3") as transceiver:
        assert await post(transceiver) == 201
        assert len(relay.sessions) == 1
        await eventually(lambda: not relay.sessions)
        assert "reason=setup_timeout" in transceiver.log


async def test_a_call_that_ends_before_its_handshake_leaves_nothing_to_trip_over() -> None:
    """ICE finds the client, which never speaks DTLS, and hangs up."""
    async with running_relay() as relay, running_transceiver(relay) as transceiver:
        async with (
            aiohttp.ClientSession() as http,
            http.post(transceiver.whip, data=OFFER, headers=SDP) as response,
        ):
            url = urljoin(transceiver.whip, response.headers["Location"])
            lines = (await response.text()).splitlines()
            ufrag, pwd = (
                next(line.removeprefix(name) for line in lines if line.startswith(name))
                for name in ("a=ice-ufrag:", "a=ice-pwd:")
            )
            answers: list[bytes] = []
            client = await open_socket(CLIENT, lambda data, _: answers.append(data))
            client.sendto(checks.question(ufrag, "abcd", pwd), (relay.vip.address, relay.vip.port))
            await eventually(lambda: bool(answers))
            client.close()
            assert (await http.delete(url)).status == 200
        assert not relay.sessions


async def test_a_client_that_vanishes_is_cleaned_up() -> None:
    async with (
        running_relay() as relay,
        running_transceiver(relay, "--silence-timeout", "1") as transceiver,
    ):
        async with calling(transceiver, 20):
            relay.deaf = True
            await eventually(lambda: not relay.sessions)
        assert "reason=client_silent" in transceiver.log


async def test_a_client_that_sends_no_checks_and_no_media_is_known_by_its_reports() -> None:
    """libnice's ways, and a muted microphone: RTCP alone says that the client is there."""
    async with (
        running_relay() as relay,
        running_transceiver(relay, "--silence-timeout", "2") as transceiver,
    ):
        peer = await silent_call(transceiver)
        try:
            # The transceiver's side of DTLS is through a flight earlier than the client's.
            await eventually(lambda: peer.connectionState == "connected")
            connection_of(peer)._query_consent_task.cancel()
            dtls = peer.getTransceivers()[0].sender.transport
            for _ in range(30):
                await dtls._send_rtp(bytes(RtcpRrPacket(ssrc=1)))
                await asyncio.sleep(0.1)
            assert len(relay.sessions) == 1
            relay.deaf = True
            await eventually(lambda: not relay.sessions)
            assert "reason=client_silent" in transceiver.log
        finally:
            await peer.close()


async def test_rtp_that_cannot_be_read_costs_that_packet_alone() -> None:
    """A header extension that is longer than it may be, at which aiortc raises more than it catches."""
    async with running_relay() as relay, running_transceiver(relay) as transceiver:
        peer = await silent_call(transceiver)
        try:
            await eventually(lambda: peer.connectionState == "connected")
            sdp = peer.localDescription.sdp
            extension = int(re.findall(r"a=extmap:(\d+) urn:ietf:params:rtp-hdrext:ssrc-audio-level", sdp)[0])
            header = struct.pack("!BBHII", 0x90, 96, 1, 960, 7)
            level = struct.pack("!HHBBBB", 0xBEDE, 1, extension << 4 | 2, 1, 2, 3)  # three bytes for one
            await peer.getTransceivers()[0].sender.transport._send_rtp(header + level + b"sound")
            await eventually(lambda: "event=rtp_refused" in transceiver.log)
            async with aiohttp.ClientSession() as http, http.get(f"{transceiver.url}/metrics") as response:
                page = await response.text()
            assert metric(page, 'earshot_transceiver_dropped_packets_total{reason="malformed"}') == 1
            async with calling(transceiver, 0.5) as other:
                assert (await other).audio_verified
            assert len(relay.sessions) == 1
        finally:
            await peer.close()


async def test_a_client_that_closes_dtls_is_cleaned_up() -> None:
    async with running_relay() as relay, running_transceiver(relay) as transceiver:
        peer = await silent_call(transceiver)
        await eventually(lambda: "event=call_connected" in transceiver.log)
        await peer.close()  # and no DELETE
        await eventually(lambda: not relay.sessions)
        assert "reason=client_closed" in transceiver.log


async def test_a_silent_relay_means_503_and_the_call_is_undone() -> None:
    async with running_relay() as relay, running_transceiver(relay, "--relay-timeout", "0.3") as transceiver:
        relay.mute = True
        assert await post(transceiver) == 503
        relay.mute = False
        await eventually(lambda: "reason=not_registered" in transceiver.log)
        await eventually(lambda: not relay.sessions)


async def test_a_call_outlives_its_relays_daemon_which_gets_a_snapshot_afterwards() -> None:
    async with running_relay() as relay, running_transceiver(relay) as transceiver:
        relay.max_batch = 1  # so that the snapshot has parts
        async with calling(transceiver, 3.0) as task:
            assert await post(transceiver) == 201
            before = set(relay.sessions)
            assert len(before) == 2
            await relay.stop_grpc()
            await eventually(lambda: "event=relay_away" in transceiver.log)
            assert await health(transceiver) == 503
            assert await post(transceiver) == 503
            await relay.start()
            await eventually(lambda: len(relay.snapshots) == 2)
            assert set(relay.snapshots[1]) == before
            await eventually(lambda: transceiver.log.count("event=relay_attached") == 2)
            assert await health(transceiver) == 200
            result = await task
        assert result.audio_verified, result
        assert result.error is None
        assert [hello.transceiver for hello in relay.hellos] == ["t1", "t1"]


async def test_a_call_that_ended_while_the_relay_was_away_is_not_in_the_snapshot() -> None:
    async with running_relay() as relay, running_transceiver(relay, "--setup-timeout", "0.5") as transceiver:
        assert await post(transceiver) == 201
        await relay.stop_grpc()
        await eventually(lambda: "event=call_ended" in transceiver.log)
        assert relay.sessions
        await relay.start()
        await eventually(lambda: len(relay.snapshots) == 2)
        assert relay.snapshots[1] == []
        assert not relay.sessions


async def test_a_call_over_ipv6() -> None:
    async with running_relay("::1", "::1") as relay, running_transceiver(relay, media="::1") as transceiver:
        result = await place_call(transceiver.whip, seconds=1.0, local_address="::1")
        assert result.audio_verified, result
        assert result.data_channel_verified
        assert relay.operations[0][0] == "add"


async def test_damaged_offers_do_not_disturb_a_call() -> None:
    random = Random(1)
    async with running_relay() as relay, running_transceiver(relay, "--setup-timeout", "2") as transceiver:
        async with calling(transceiver, 2.0) as task, aiohttp.ClientSession() as http:
            for _ in range(100):
                start, length = random.randrange(len(OFFER)), random.randrange(12)
                patch = "".join(random.choices(OFFER, k=random.randrange(12)))
                offer = OFFER[:start] + patch + OFFER[start + length :]
                async with http.post(transceiver.whip, data=offer, headers=SDP) as response:
                    assert response.status in (201, 400, 422)
            result = await task
        assert result.audio_verified, result
        assert result.error is None
        await eventually(lambda: not relay.sessions)


async def test_sigterm_ends_the_calls_and_says_so_to_client_and_relay() -> None:
    async with running_relay() as relay, running_transceiver(relay) as transceiver:
        async with calling(transceiver, 20):
            transceiver.process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(transceiver.process.wait(), 10) == 0
        assert not relay.sessions
        assert "reason=shutdown" in transceiver.log


async def test_no_more_calls_than_allowed() -> None:
    async with running_relay() as relay, running_transceiver(relay, "--max-calls", "1") as transceiver:
        assert await post(transceiver) == 201
        assert await post(transceiver) == 503
        assert len(relay.sessions) == 1


def test_wrong_settings_name_the_flag() -> None:
    for flag, value in (
        ("--http", "nonsense"),
        ("--http", "127.0.0.1:99999"),
        ("--media-address", "host.example"),
        ("--media-address", "0.0.0.0"),
        ("--media-address", "192.0.2.1,192.0.2.2"),
        ("--name", "a b"),
        ("--silence-timeout", "0"),
    ):
        result = CliRunner().invoke(main, ["--media-address", "2001:db8::1", flag, value])
        assert result.exit_code == 2
        assert flag in result.output
    assert CliRunner().invoke(main, []).exit_code == 2


def test_settings_come_from_the_environment_too() -> None:
    result = CliRunner().invoke(main, [], env={"EARSHOT_TRANSCEIVER_MEDIA_ADDRESS": "nonsense"})
    assert result.exit_code == 2
    assert "nonsense" in result.output
