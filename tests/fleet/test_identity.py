# SPDX-License-Identifier: Apache-2.0
"""What relays tell of which directory they have: the same where they share one, else nothing in common."""

from __future__ import annotations

import itertools
from contextlib import AsyncExitStack
from pathlib import Path

from control.directory.identity import KEY
from fleet.key import FleetKey
from tests.fleet.node import GRACE, KEYS, Node, World, nodes_of
from tests.lab.redis import redis_server

OTHER = FleetKey.of(bytes(32))
ANOTHER = "0123456789abcdef" * 2


def common(*nodes: Node) -> set[str]:
    """What all of them say."""
    return set.intersection(*(set(node.directory.ids()) for node in nodes))


async def known(world: World, *nodes: Node) -> None:
    await world.until(lambda: all(node.directory.ids() for node in nodes), "known")


async def test_relays_of_one_directory_say_the_same_and_others_do_not(world: World, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    async with AsyncExitStack() as stack:
        nodes = await nodes_of(world, stack)
        stranger = await stack.enter_async_context(world.node("stranger", {3: OTHER}))
        elsewhere = World(stack.enter_context(redis_server(tmp_path / "other")), GRACE)
        far = await stack.enter_async_context(elsewhere.node("far"))
        await known(world, *nodes, stranger, far)
        assert len(common(*nodes)) == 1
        assert not common(nodes[0], stranger), "of another fleet, at the same Redis"
        assert not common(nodes[0], far), "of the same fleet, at another Redis"
        told = common(*nodes).pop()
        assert told not in world.redis.cli("GET", KEY)


async def test_keys_are_exchanged_and_neighbours_have_something_in_common(world: World) -> None:
    old, new = KEYS[3], OTHER
    steps = [{3: old}, {3: old, 4: new}, {4: new, 3: old}, {4: new}]
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(world.node(f"relay-{number}", keys))
            for number, keys in enumerate(steps)
        ]
        await known(world, *nodes)
        assert all(common(before, after) for before, after in itertools.pairwise(nodes))
        assert not common(nodes[0], nodes[3])


async def test_it_is_put_back_where_redis_has_lost_it(world: World) -> None:
    async with world.node("relay-1") as first, world.node("relay-2") as second:
        await known(world, first, second)
        before = common(first, second)
        world.redis.cli("DEL", KEY)
        await world.until(lambda: bool(world.redis.cli("EXISTS", KEY).strip() == "1"), "it is there again")
        # One that knew nothing was there before them: they take its number, and still say the former one.
        world.redis.cli("SET", KEY, ANOTHER)
        await world.until(lambda: len(common(first, second)) == 2, "taken over")
        assert before < common(first, second)
        # What is no number is none.
        world.redis.cli("SET", KEY, "nonsense")
        await world.until(lambda: world.redis.cli("GET", KEY).strip() == ANOTHER, "mended")
