# SPDX-License-Identifier: Apache-2.0
"""What takes its time of what registries tell each other."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import AsyncExitStack

import pytest

from control.batches import clock
from tests.fleet.node import World, names, nodes_of

pytestmark = pytest.mark.nightly


async def test_redis_hangs_and_comes_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes that were not answered were carried out, or not: both come out right."""
    monkeypatch.setattr("control.directory.link.CALL_SECONDS", 0.3)
    monkeypatch.setattr("control.directory.link.Link.call.__defaults__", (0.3,), raising=False)
    async with AsyncExitStack() as stack:
        nodes = await nodes_of(world, stack, 2)
        owner, _ = nodes[0].attach("t1")
        nodes[0].add(owner, *names(20))
        await world.agree(nodes, "t1", *names(20))
        for round_number in range(3):
            os.kill(world.redis.pid, signal.SIGSTOP)
            nodes[0].add(owner, *names(20, f"r{round_number}x"))
            await asyncio.sleep(0.6)
            nodes[0].remove(owner, *names(10, f"r{round_number}x"))
            os.kill(world.redis.pid, signal.SIGCONT)
            await asyncio.sleep(0.2)
        left = [f"r{round_number}x{n}" for round_number in range(3) for n in range(10, 20)]
        await world.agree(nodes, "t1", *names(20), *left)


async def test_a_redis_that_may_not_be_written_to(world: World) -> None:
    """As it is while another one takes over: what is read there is of no use without what is written."""
    async with AsyncExitStack() as stack:
        nodes = await nodes_of(world, stack, 2)
        owner, _ = nodes[0].attach("t1")
        nodes[0].add(owner, "before")
        await world.agree(nodes, "t1", "before")
        world.redis.cli("REPLICAOF", "127.0.0.1", "1")
        failures = nodes[0].directory.link.failures
        nodes[0].add(owner, "meanwhile")
        await world.until(lambda: nodes[0].directory.link.failures > failures, "refused")
        await world.until(lambda: nodes[0].directory.members.delay(time.monotonic()) > 0.5, "late")
        assert set(nodes[1].sessions("t1")) == {"before"}
        world.redis.cli("REPLICAOF", "NO", "ONE")
        await world.agree(nodes, "t1", "before", "meanwhile")


async def test_clocks_that_differ_by_weeks_do_not_matter(world: World) -> None:
    world.grace = 1.5
    async with AsyncExitStack() as stack:
        nodes = await nodes_of(world, stack)
        week = 7 * 86400
        for node, skew in zip(nodes, (week, -week, 0), strict=True):
            node.directory.homes.wall_clock = lambda skew=skew: time.time() + skew  # type: ignore[misc]
        for turn, number in enumerate((0, 1, 2, 1, 0)):
            owner, attachment = nodes[number].attach("t1")
            nodes[number].add(owner, f"s{turn}")
            await world.agree(nodes, "t1", *names(turn + 1))
        world.redis.kill()
        nodes[0].detach(attachment)
        owner, _ = nodes[1].attach("t1")  # the one whose clock is behind
        nodes[1].remove(owner, *names(5))
        await asyncio.sleep(1.5 * world.grace)
        assert set(nodes[0].sessions("t1")) == set(names(5))  # it cannot know
        world.redis.start()
        await world.agree(nodes, "t1")
        nodes[1].add(owner, "again")
        assert nodes[1].lost.count("t1") == 2
        await world.agree(nodes, "t1", "again")


async def test_sessions_expire_where_their_transceiver_is_and_then_everywhere(world: World) -> None:
    async with AsyncExitStack() as stack:
        nodes = await nodes_of(world, stack, 2)
        owner, _ = nodes[0].attach("t1")
        nodes[0].add(owner, "brief", ttl=1)
        nodes[0].add(owner, "renewed", ttl=1)
        await world.agree(nodes, "t1", "brief", "renewed")
        there = nodes[1].registry.owner_named("t1")
        assert there is not None
        assert [one.expires for one in there.sessions.values()] == [0, 0]
        moved, _ = nodes[1].attach("t1")
        await world.until(lambda: nodes[0].lost == ["t1"], "told to the first")
        assert [one.expires for one in owner.sessions.values()] == [0, 0]
        for one in ("brief", "renewed"):
            nodes[1].registry.renew(moved, one, clock().seconds)
        for _ in range(5):
            await asyncio.sleep(0.4)
            nodes[1].registry.renew(moved, "renewed", clock().seconds)
        await world.agree(nodes, "t1", "renewed")
