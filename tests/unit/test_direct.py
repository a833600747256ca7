# SPDX-License-Identifier: Apache-2.0
"""Datagrams between relays of a group, over loopback: what is believed is answered, and nothing else."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest

from control.directory.errors import Refusal, SealError
from control.directory.seal import Opened, Sealer
from control.errors import ConfigError
from control.replication import direct as direct_module
from control.replication.direct import BURST, MOST_BYTES, PLACE, REFUSALS, Direct
from fleet.key import FleetKey

KEYS = {3: FleetKey.of(bytes(range(32)))}
SECONDS = 20.0


@pytest.fixture
def client() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", 0))
        made.setblocking(False)
        yield made


def free_port() -> int:
    """A UDP port that nobody has at the moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110 - it is of a callback, which tells nobody
            await asyncio.sleep(0.01)


async def test_what_is_said_is_heard_and_answered(client: socket.socket) -> None:
    ours, theirs = Sealer(KEYS), Sealer(KEYS)
    heard: list[Opened] = []
    port = free_port()

    def hear(opened: Opened) -> bytes:
        heard.append(opened)
        return b"answer"

    direct = Direct(port, ours, hear)
    with direct.running():
        client.sendto(theirs.seal(PLACE, b"question"), ("127.0.0.1", port))
        answer = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 2048), SECONDS)
    assert [(one.payload, one.instance) for one in heard] == [(b"question", theirs.instance)]
    assert theirs.unseal(PLACE, answer).payload == b"answer"
    assert not direct.refused


async def test_what_goes_out_can_be_heard_by_its_receiver_alone(client: socket.socket) -> None:
    """And what comes back to who has sent it, because it has the other's address, is nothing new."""
    sealer = Sealer(KEYS)
    heard: list[Opened] = []
    direct = Direct(free_port(), sealer, lambda opened: heard.append(opened))
    with direct.running():
        for address in ("127.0.0.1", "::1"):
            direct.send(ip_address(address), b"to ourselves")
        # Behind those in the same socket.
        client.sendto(Sealer(KEYS).seal(PLACE, b"last"), ("127.0.0.1", direct.port))
        await until(lambda: bool(heard))
    assert [one.payload for one in heard] == [b"last"]
    assert not direct.refused


async def test_what_cannot_be_believed_is_refused_and_counted(client: socket.socket) -> None:
    stranger, other_key = (Sealer({number: FleetKey.of(bytes(32))}) for number in (3, 9))
    friend = Sealer(KEYS)

    def hear(opened: Opened) -> bytes | None:
        raise SealError(Refusal.REPLAYED, "was said before")

    direct = Direct(free_port(), Sealer(KEYS), hear)
    junk = [
        b"",
        bytes(MOST_BYTES + 1),
        b"\x63" + bytes(80),
        stranger.seal(PLACE, b"{}"),
        other_key.seal(PLACE, b"{}"),
        friend.seal(b"earshot:flows", b"{}"),
        friend.seal(PLACE, b"{}"),
    ]
    with direct.running():
        for one in junk:
            client.sendto(one, ("127.0.0.1", direct.port))
        await until(lambda: direct.refused.total() == len(junk))
    assert dict(direct.refused) == {
        Refusal.MALFORMED: 2,
        Refusal.VERSION: 1,
        Refusal.FORGED: 2,
        Refusal.KEY: 1,
        Refusal.REPLAYED: 1,
    }
    assert direct.refused.keys() <= set(REFUSALS)


@pytest.mark.parametrize(("seconds", "read"), [(3600.0, BURST), (direct_module.BURST_SECONDS, BURST + 50)])
async def test_a_flood_is_read_slowly(
    client: socket.socket, monkeypatch: pytest.MonkeyPatch, seconds: float, read: int
) -> None:
    """So much at a time, so that the daemon has other work done meanwhile."""
    monkeypatch.setattr(direct_module, "BURST_SECONDS", seconds)
    direct = Direct(free_port(), Sealer(KEYS), lambda opened: None)
    with direct.running():
        for _ in range(BURST + 50):
            client.sendto(b"flood", ("127.0.0.1", direct.port))
        await until(lambda: direct.refused.total() >= read)
        for _ in range(10):
            await asyncio.sleep(0)
        assert direct.refused.total() == read


async def test_the_port_of_another_program_is_refused() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        direct = Direct(other.getsockname()[1], Sealer(KEYS), lambda opened: None)
        with pytest.raises(ConfigError, match="group_port"), direct.running():
            raise AssertionError("it has it all the same")
