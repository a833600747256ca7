# SPDX-License-Identifier: Apache-2.0
"""Many sessions on one socket: each hears its own client and no other, whatever is sent."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address

import pytest
from aioice import stun

from tests.lab.calls import binding_request
from tests.unit.transceiver_world import CLIENT, DEADLINE, MEDIA, VIP, Address, eventually, open_socket
from transceiver import ice
from transceiver.agent import Credentials
from transceiver.dispatch import ADDRESSES_PER_SESSION
from transceiver.media import Drop, Endpoint, Traffic
from transceiver.mux import MediaPort, Route, media_ports

SESSIONS = 50
MEDIA_BYTE = b"\x80"


class Peer:
    """A client's socket, and what came to it."""

    def __init__(self, port: MediaPort) -> None:
        self._server = (str(port.endpoint.address), port.endpoint.port)
        self.received: list[bytes] = []

    async def open(self) -> None:
        self._transport = await open_socket(CLIENT, lambda data, _: self.received.append(data))

    def close(self) -> None:
        self._transport.close()

    @property
    def address(self) -> Address:
        address: Address = self._transport.get_extra_info("sockname")
        return address

    def send(self, data: bytes) -> None:
        self._transport.sendto(data, self._server)

    async def check(self, credentials: Credentials, nominate: bool = False) -> stun.Class:
        """Sends a check and returns the class of its answer."""
        message = stun.parse_message(binding_request(credentials.ufrag, credentials.pwd))
        if nominate:
            message.attributes["USE-CANDIDATE"] = None
            message.add_message_integrity(credentials.pwd.encode())
        count = len(self.received)
        self.send(bytes(message))
        await eventually(lambda: len(self.received) > count)
        answer = stun.parse_message(self.received.pop())
        assert answer.transaction_id == message.transaction_id
        return stun.Class(answer.message_class)


class World:
    """A port, and sessions with a peer each."""

    def __init__(self, port: MediaPort, traffic: Traffic) -> None:
        self.port = port
        self.traffic = traffic
        self.sessions: list[ice.LiteConnection] = []
        self.peers: list[Peer] = []

    async def add(self) -> None:
        link = ice.MediaLink([Route(self.port, Endpoint(ip_address(VIP), 3478))], self.traffic, lambda: None)
        with ice.linked(link):
            session = ice.LiteConnection(ice_controlling=False)
        await session.gather_candidates()
        peer = Peer(self.port)
        await peer.open()
        self.sessions.append(session)
        self.peers.append(peer)

    async def check(self, peer: int, session: int, nominate: bool = False) -> stun.Class:
        return await self.peers[peer].check(self.sessions[session].credentials[0], nominate)

    async def hears(self, session: int, peer: int) -> bool:
        """Whether what the peer sends comes to the session."""
        token = MEDIA_BYTE + os.urandom(8)
        before = self.traffic.packets_in
        self.peers[peer].send(token)
        await eventually(lambda: self.traffic.packets_in > before)
        return token in self.sessions[session]._inbox

    async def reaches(self, session: int) -> int | None:
        """The number of the peer that a session's media goes to; None if it goes nowhere."""
        token = MEDIA_BYTE + os.urandom(8)
        unsent = self.traffic.drops[Drop.NO_PATH]
        await self.sessions[session].send(token)
        if self.traffic.drops[Drop.NO_PATH] > unsent:
            return None
        await eventually(lambda: any(token in peer.received for peer in self.peers))
        (reached,) = [number for number, peer in enumerate(self.peers) if token in peer.received]
        return reached


@asynccontextmanager
async def world_of(count: int) -> AsyncIterator[World]:
    traffic = Traffic()
    with media_ports([ip_address(MEDIA)], 0, traffic) as (port,):
        world = World(port, traffic)
        for _ in range(count):
            await world.add()
        try:
            yield world
        finally:
            for session in world.sessions:
                await session.close()
            for peer in world.peers:
                peer.close()
            await asyncio.sleep(0)  # transports close in the loop's next turn


async def test_fifty_sessions_on_one_port() -> None:
    async with world_of(SESSIONS) as world:
        for number in range(SESSIONS):
            assert await world.check(number, number) is stun.Class.RESPONSE
        for number in range(SESSIONS):
            world.peers[number].send(MEDIA_BYTE + str(number).encode())
        async with asyncio.timeout(DEADLINE):
            heard = await asyncio.gather(*(session.recv() for session in world.sessions))
        assert heard == [MEDIA_BYTE + str(number).encode() for number in range(SESSIONS)]
        assert [await world.reaches(number) for number in range(SESSIONS)] == list(range(SESSIONS))


async def test_clients_that_swap_addresses() -> None:
    async with world_of(2) as world:
        await world.check(0, 0)
        await world.check(1, 1)
        await world.check(1, 0)
        assert await world.reaches(1) is None  # its client's address is another session's now
        await world.check(0, 1)
        assert await world.hears(0, 1)
        assert await world.hears(1, 0)
        assert (await world.reaches(0), await world.reaches(1)) == (1, 0)


@pytest.mark.parametrize("nominate", [False, True])
async def test_forged_requests_move_nothing(nominate: bool) -> None:
    async with world_of(3) as world:
        for number in (0, 1):
            await world.check(number, number)
        mine, other = (session.credentials[0] for session in world.sessions[:2])
        thief = world.peers[2]
        for pwd in ("w" * 24, other.pwd):
            assert await thief.check(Credentials(mine.ufrag, pwd), nominate) is stun.Class.ERROR
            assert await world.peers[1].check(Credentials(mine.ufrag, pwd), nominate) is stun.Class.ERROR
        assert not await world.hears(0, 2)
        assert not await world.hears(0, 1)
        assert await world.hears(1, 1)
        assert (await world.reaches(0), await world.reaches(1)) == (0, 1)


async def test_nothing_is_said_to_who_names_no_session() -> None:
    async with world_of(1) as world:
        await world.check(0, 0)
        stranger = world.peers[0]
        sent = world.traffic.packets_out
        stranger.send(binding_request("nobody", "p" * 24))
        unnamed = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
        stranger.send(bytes(unnamed))
        for kind in (stun.Class.RESPONSE, stun.Class.ERROR, stun.Class.INDICATION):
            stranger.send(bytes(stun.Message(stun.Method.BINDING, kind)))
        await eventually(lambda: world.traffic.packets_in == 6)
        assert world.traffic.packets_out == sent
        assert world.traffic.drops == {Drop.UNKNOWN_UFRAG: 2}


async def test_a_client_that_is_controlled_too_is_told_to_switch() -> None:
    async with world_of(1) as world:
        credentials = world.sessions[0].credentials[0]
        request = stun.Message(
            stun.Method.BINDING,
            stun.Class.REQUEST,
            attributes={"USERNAME": f"{credentials.ufrag}:x", "PRIORITY": 1, "ICE-CONTROLLED": 1},
        )
        request.add_message_integrity(credentials.pwd.encode())
        world.peers[0].send(bytes(request))
        await eventually(lambda: bool(world.peers[0].received))
        answer = stun.parse_message(world.peers[0].received.pop())
        assert answer.error_code == 487
        assert answer.check_message_integrity(credentials.pwd.encode())
        assert await world.reaches(0) is None


async def test_a_session_knows_a_bounded_number_of_addresses() -> None:
    async with world_of(ADDRESSES_PER_SESSION + 2) as world:
        for peer in range(len(world.peers)):
            await world.check(peer, 0)
        heard = [await world.hears(0, peer) for peer in range(len(world.peers))]
        assert heard.count(True) == ADDRESSES_PER_SESSION
        assert heard[0]  # in use, though proven first
        assert await world.reaches(0) == 0


async def test_a_closed_session_is_not_spoken_for() -> None:
    async with world_of(2) as world:
        await world.check(0, 0)
        await world.sessions[0].close()
        assert not await world.hears(0, 0)
        assert world.traffic.drops[Drop.UNKNOWN_SOURCE] == 1
        world.peers[0].send(binding_request(world.sessions[0].local_username, "p" * 24))
        await eventually(lambda: world.traffic.drops[Drop.UNKNOWN_UFRAG] == 1)


async def test_an_inbox_that_nobody_reads_is_bounded() -> None:
    async with world_of(1) as world:
        await world.check(0, 0)
        for number in range(ice.INBOX + 10):
            world.sessions[0].media_received(b"%d" % number, world.sessions[0]._agent.path)
        assert world.traffic.drops == {Drop.INBOX_FULL: 10}
        assert await world.sessions[0].recv() == b"10"


async def test_a_call_that_sends_more_than_its_share_loses_it_and_no_other_does() -> None:
    async with world_of(2) as world:
        for number in range(2):
            await world.check(number, number)
        for _ in range(2):
            for _ in range(round(ice.BURST)):
                world.sessions[0].media_received(b"flood", world.sessions[0]._agent.path)
        assert world.traffic.drops[Drop.TOO_MANY] > ice.BURST / 2
        world.sessions[1].media_received(b"fine", world.sessions[1]._agent.path)
        assert await world.sessions[1].recv() == b"fine"


async def test_a_port_in_use_is_named() -> None:
    with (
        media_ports([ip_address(MEDIA)], 0, Traffic()) as (port,),
        pytest.raises(OSError, match=rf"no media socket on {MEDIA}:{port.endpoint.port}: Address already"),
        media_ports([ip_address(MEDIA)], port.endpoint.port, Traffic()),
    ):
        pass
