# SPDX-License-Identifier: Apache-2.0
"""ICE that answers only, on real sockets: whom it believes, whom it follows, and that it keeps quiet."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from ipaddress import ip_address

import aioice
import pytest
from aioice import stun

from tests.unit.transceiver_world import CLIENT, MEDIA, VIP, Address, eventually, open_socket
from transceiver import agent, ice, library
from transceiver.errors import LibraryError
from transceiver.media import Drop, Endpoint, Traffic
from transceiver.mux import MediaPort, Route

REMOTE_UFRAG, REMOTE_PWD = "client", "c" * 24


class Peer:
    """A client's socket, and what came to it."""

    def __init__(self, server: Address, connection: ice.LiteConnection) -> None:
        self._server = server
        self._connection = connection
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
        if data:
            self._transport.sendto(data, self._server)
        else:  # asyncio would not send it
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
                plain.sendto(data, self._server)

    async def check(self, pwd: str = "", **attributes: object) -> stun.Message:
        """Sends a check and returns the response."""
        request = stun.Message(
            stun.Method.BINDING,
            stun.Class.REQUEST,
            attributes={
                "USERNAME": f"{self._connection.local_username}:{REMOTE_UFRAG}",
                "PRIORITY": 1,
                "ICE-CONTROLLING": 1,
                **{name.replace("_", "-"): value for name, value in attributes.items()},
            },
        )
        request.add_message_integrity((pwd or self._connection.local_password).encode())
        self.send(bytes(request))

        def answers() -> list[bytes]:
            # Beside questions of the transceiver's own: of all STUN messages, its class and transaction.
            return [
                data for data in self.received if data[:1] == b"\1" and data[8:20] == request.transaction_id
            ]

        await eventually(lambda: bool(answers()))
        response: stun.Message = stun.parse_message(answers()[0])
        return response


class World:
    def __init__(self) -> None:
        self.traffic = Traffic()
        self.port = MediaPort(ip_address(MEDIA), 0, self.traffic)
        self.renewals = 0
        route = Route(self.port, Endpoint(ip_address(VIP), 3478))
        self.link = ice.MediaLink([route], self.traffic, self._renewed)
        with ice.linked(self.link):
            self.connection = ice.LiteConnection(ice_controlling=False)
        self.peers: list[Peer] = []

    def _renewed(self) -> None:
        self.renewals += 1

    async def start(self) -> None:
        await self.connection.gather_candidates()
        self.connection.remote_username, self.connection.remote_password = REMOTE_UFRAG, REMOTE_PWD
        endpoint = self.link.endpoints[0]
        for _ in range(2):
            peer = Peer((str(endpoint.address), endpoint.port), self.connection)
            await peer.open()
            self.peers.append(peer)
        self.connecting = asyncio.create_task(self.connection.connect())

    async def reaches(self) -> Peer:
        """The peer that data is sent to."""
        await self.connection.send(b"\x80data")
        await eventually(lambda: any(b"\x80data" in peer.received for peer in self.peers))
        (reached,) = [peer for peer in self.peers if b"\x80data" in peer.received]
        reached.received.remove(b"\x80data")
        return reached


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    await made.start()
    yield made
    await made.connection.close()
    made.port.close()
    await asyncio.gather(made.connecting, return_exceptions=True)
    for peer in made.peers:
        peer.close()
    await asyncio.sleep(0)  # transports close in the loop's next turn


async def test_the_first_authenticated_check_connects(world: World) -> None:
    first, _ = world.peers
    response = await first.check()
    assert response.message_class == stun.Class.RESPONSE
    assert response.attributes["XOR-MAPPED-ADDRESS"] == first.address
    await asyncio.wait_for(world.connecting, 5)
    assert await world.reaches() is first


async def test_the_only_candidate_is_the_vip(world: World) -> None:
    (candidate,) = world.connection.local_candidates
    assert (candidate.host, candidate.port, candidate.type) == (VIP, 3478, "host")


async def test_a_check_with_another_pwd_does_not_connect(world: World) -> None:
    response = await world.peers[0].check(pwd="w" * 24)
    assert response.message_class == stun.Class.ERROR
    assert not world.connecting.done()


async def test_a_second_address_is_not_followed_while_the_first_is_heard(world: World) -> None:
    first, second = world.peers
    await first.check()
    await second.check()
    assert await world.reaches() is first


async def test_a_nomination_is_followed_at_once(world: World) -> None:
    first, second = world.peers
    await first.check()
    await second.check(USE_CANDIDATE=None)
    assert await world.reaches() is second


async def test_a_new_address_is_followed_when_the_old_one_is_silent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "ROAM_AFTER", 0.0)
    first, second = world.peers
    await first.check()
    await second.check()
    assert await world.reaches() is second


async def test_media_is_taken_from_the_peer_alone(world: World) -> None:
    first, second = world.peers
    await first.check()
    second.send(b"\x80foreign")
    await eventually(lambda: world.traffic.packets_in == 2)
    first.send(b"\x80own")
    assert await asyncio.wait_for(world.connection.recv(), 5) == b"\x80own"


async def test_what_is_no_message_is_dropped(world: World) -> None:
    first, _ = world.peers
    request = stun.Message(stun.Method.BINDING, stun.Class.REQUEST, attributes={"PRIORITY": 1})
    cut = bytearray(bytes(request))
    cut[23] = 2  # an attribute of 2 bytes where 4 are due
    for data in (b"", b"\x00", b"\x03" * 19, b"\xff", bytes(cut), bytes(request)[:-3]):
        first.send(data)
    await eventually(lambda: world.traffic.packets_in == 6)
    assert (await first.check()).message_class == stun.Class.RESPONSE
    assert world.traffic.drops == {Drop.MALFORMED: 5, Drop.UNKNOWN_SOURCE: 1}


async def test_closing_ends_the_wait(world: World) -> None:
    await world.connection.close()
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(world.connecting, 5)
    with pytest.raises(ConnectionError):
        await world.connection.send(b"\x80late")


async def test_it_never_speaks_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor asks anybody before there is a path."""
    monkeypatch.setattr(ice, "ASK_AFTER", 0.01)
    await asyncio.sleep(0.2)
    assert world.traffic.packets_out == 0


async def test_it_asks_on_the_path_in_use(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a full agent would, every few seconds, with the client's credentials, also after an ICE restart."""
    monkeypatch.setattr(ice, "ASK_AFTER", 0.01)
    monkeypatch.setattr(ice, "ASK_EVERY", 0.05)
    first, second = world.peers
    await first.check()

    async def question(peer: Peer, pwd: str) -> stun.Message:
        peer.received.clear()
        await eventually(lambda: any(data[:2] == b"\0\1" for data in peer.received))
        asked: stun.Message = stun.parse_message(next(data for data in peer.received if data[:2] == b"\0\1"))
        assert asked.check_message_integrity(pwd.encode())
        assert "FINGERPRINT" in asked.attributes
        assert "USE-CANDIDATE" not in asked.attributes
        assert "ICE-CONTROLLED" in asked.attributes
        return asked

    asked = await question(first, REMOTE_PWD)
    assert asked.attributes["USERNAME"] == f"{REMOTE_UFRAG}:{world.connection.local_username}"
    assert (await question(first, REMOTE_PWD)).transaction_id != asked.transaction_id
    assert not second.received
    await second.check(USE_CANDIDATE=None)
    world.connection.follow_client(agent.Credentials("renewed", "r" * 24))
    asked = await question(second, "r" * 24)
    assert asked.attributes["USERNAME"] == f"renewed:{world.connection.local_username}"
    await world.connection.close()
    sent = world.traffic.packets_out
    await asyncio.sleep(0.2)
    assert world.traffic.packets_out == sent


async def test_an_answer_to_what_it_asked_is_left_to_the_relay(world: World) -> None:
    first, _ = world.peers
    await first.check()
    answer = stun.Message(stun.Method.BINDING, stun.Class.RESPONSE)
    answer.add_message_integrity(REMOTE_PWD.encode())
    first.send(bytes(answer))
    await eventually(lambda: world.traffic.packets_in == 2)
    assert not world.traffic.drops
    assert world.traffic.packets_out == 1


def test_the_libraries_are_as_needed() -> None:
    library.check()


def test_a_library_that_lacks_a_name_is_named_with_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(aioice.stun, "parse_message")
    with pytest.raises(LibraryError, match=r"aioice \d+\.\d+\S* has no parse_message in aioice.stun"):
        library.check()


def test_a_library_that_asks_for_a_name_is_named_with_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ice.LiteConnection, "recv")
    with pytest.raises(LibraryError, match=r"aiortc \d+\.\d+\S* asks of its ICE .* not here: recv"):
        library.check()
