# SPDX-License-Identifier: Apache-2.0
"""A relay's part in the directory without the rest of the relay: a registry, no maps, and a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import ip_address

from control.addresses import Endpoint, IPAddress
from control.batches import clock
from control.directory.directory import Directory
from control.directory.entering import Entering
from control.directory.target import Target
from control.errors import UnreachableError
from control.flows import Clock
from control.model import Attachment, Owner, Session, UfragKey
from control.requests import Credential, LocalAddresses, SessionRequest
from control.sessions import Registry
from control.turns import Turns
from fleet.key import FleetKey
from tests.lab.redis import RedisServer

SECONDS = 30.0
GRACE = 0.8
LONG = 60.0  # a grace that does not end
LOCAL = LocalAddresses(own=frozenset({ip_address("10.20.0.1")}), families=frozenset({4}))
STATES = bytes(range(40))
KEYS = {3: FleetKey.of(bytes(range(32)))}


class Committed:
    """Where changes of the registry go: nowhere."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def commit(self, now: Clock) -> list[Session]:
        self._registry.take_changes()
        return []


class Hops:
    """The way to each address is known, but for those that are cut off."""

    def __init__(self) -> None:
        self.cut_off: set[IPAddress] = set()

    async def hop_for(self, address: IPAddress) -> int:
        if address in self.cut_off:
            raise UnreachableError(f"{address} is cut off")
        return 1


class Node:
    """One relay."""

    def __init__(self, url: str, name: str, keys: Mapping[int, FleetKey], grace: float) -> None:
        self.registry = Registry(max_sessions=1 << 20, max_backends=1000, grace_seconds=grace)
        self.hops = Hops()
        self.lost: list[str] = []
        self._grace = grace
        turns = Turns()
        self.entering = Entering(self.registry, Committed(self.registry), self.hops, LOCAL, turns)
        self.directory = Directory(
            Target.of(url),
            keys,
            name,
            self.registry,
            self.entering,
            turns,
            lambda owner: self.lost.append(owner.name),
        )
        self.directory.reconfigure(name, keys, grace, grace)

    def attach(self, name: str, *, is_heard: bool = True) -> tuple[Owner, Attachment]:
        """A transceiver attaches, and says at once which sessions it has; or has not said it yet."""
        attachment = self.registry.attach(name, "test", clock().seconds)
        owner = self.registry.owner_of(attachment)
        self.directory.attached(owner)
        if is_heard:
            self.directory.heard(owner)
        return owner, attachment

    def detach(self, attachment: Attachment) -> None:
        owner = self.registry.detach(attachment, clock().seconds)
        assert owner is not None
        self.directory.changed(owner)

    def add(self, owner: Owner, *session_ids: str, port: int = 4000, ttl: int = 0) -> None:
        end = Endpoint(ip_address("10.99.0.10"), port)
        for one in session_ids:
            wanted = SessionRequest(one, (Credential(f"ufrag{one}", b""),), {"endpoints[0]": end}, ttl)
            self.registry.add(owner, wanted, [UfragKey(f"ufrag{one}", STATES)], {end: 1}, clock().seconds)

    def remove(self, owner: Owner, *session_ids: str) -> None:
        for one in session_ids:
            self.registry.remove(owner, one, clock().seconds)

    def sessions(self, name: str) -> dict[str, list[int]]:
        """Ports of a transceiver's sessions, by their ids."""
        owner = self.registry.owner_named(name)
        if owner is None:
            return {}
        return {
            one.session_id: [end.port for end in self.registry.endpoints(one)]
            for one in owner.sessions.values()
        }


class World:
    """Relays at one Redis."""

    def __init__(self, redis: RedisServer, grace: float) -> None:
        self.redis = redis
        self.grace = grace

    @asynccontextmanager
    async def node(self, name: str, keys: Mapping[int, FleetKey] = KEYS) -> AsyncIterator[Node]:
        """A relay that runs while the block does."""
        node = Node(self.redis.url, name, keys, self.grace)
        sweeping = asyncio.create_task(self._sweep(node))
        try:
            async with node.directory.running():
                yield node
        finally:
            sweeping.cancel()

    @staticmethod
    async def _sweep(node: Node) -> None:
        while True:
            await asyncio.sleep(0.05)
            node.registry.sweep(clock().seconds)

    @staticmethod
    async def until(condition: Callable[[], bool], what: str) -> None:
        """Returns once it is so; fails, naming it, if it does not come to that."""
        try:
            async with asyncio.timeout(SECONDS):
                while not condition():  # noqa: ASYNC110 - it is of others, who tell nobody
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"not within {SECONDS:.0f} s: {what}") from None

    async def agree(self, nodes: Sequence[Node], name: str, *sessions: str) -> None:
        """Returns when all nodes have these sessions of a transceiver, all alike, and no others."""

        def alike() -> bool:
            has = [node.sessions(name) for node in nodes]
            return all(one == has[0] for one in has) and set(has[0]) == set(sessions)

        await self.until(alike, f"{sessions} of {name}: {[node.sessions(name) for node in nodes]}")


async def nodes_of(world: World, stack: AsyncExitStack, count: int = 3) -> list[Node]:
    return [await stack.enter_async_context(world.node(f"relay-{number + 1}")) for number in range(count)]


def names(count: int, prefix: str = "s") -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]
