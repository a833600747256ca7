# SPDX-License-Identifier: Apache-2.0
"""What registries tell each other by the directory: they agree in the end, whatever happens to Redis."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from ipaddress import ip_address

import pytest

from control.directory.errors import Refusal
from control.directory.journal import FIELD
from control.directory.seal import Sealer
from fleet.key import FleetKey
from tests.fleet.node import GRACE, KEYS, LONG, World, names, nodes_of


async def test_what_one_is_told_all_have(world: World) -> None:
    async with AsyncExitStack() as stack:
        nodes = await nodes_of(world, stack)
        owner, _ = nodes[0].attach("t1")
        nodes[0].add(owner, *names(500))
        await world.agree(nodes, "t1", *names(500))
        nodes[0].remove(owner, *names(400))
        nodes[0].add(owner, "s450", port=4001)
        await world.agree(nodes, "t1", *names(500)[400:])
        assert nodes[2].sessions("t1")["s450"] == [4001]
        assert not any(node.directory.refusals.counts for node in nodes)


async def test_who_comes_later_gets_all_of_it(world: World) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(world.node("relay-1"))
        owner, _ = first.attach("t1")
        first.add(owner, *names(300))
        quiet, _ = first.attach("t2")
        first.add(quiet, "q")
        await world.until(lambda: first.directory.homes.queued == 0, "written")
        second = await stack.enter_async_context(world.node("relay-2"))
        first.add(owner, "later")
        await world.agree([first, second], "t1", *names(300), "later")
        await world.agree([first, second], "t2", "q")


async def test_a_relay_that_knows_nothing_waits_for_the_transceivers_word(world: World) -> None:
    """It was started a moment ago: that it has no sessions does not mean that there are none."""
    async with AsyncExitStack() as stack:
        nodes = await nodes_of(world, stack, 2)
        owner, attachment = nodes[0].attach("t1")
        nodes[0].add(owner, *names(50))
        await world.agree(nodes, "t1", *names(50))
        late = await stack.enter_async_context(world.node("relay-3"))
        nodes[0].detach(attachment)
        moved, _ = late.attach("t1", is_heard=False)
        assert late.directory.homes.by_name["t1"].is_whole
        other, _ = late.attach("t2")
        late.add(other, "o")
        await world.agree([*nodes, late], "t2", "o")  # so it has had its turn
        assert set(nodes[0].sessions("t1")) == set(nodes[1].sessions("t1")) == set(names(50))
        late.add(moved, *names(50)[1:], "new")
        late.directory.heard(moved)
        await world.agree([*nodes, late], "t1", *names(50)[1:], "new")


async def test_a_transceiver_moves_and_only_what_differs_is_told(world: World) -> None:
    async with AsyncExitStack() as stack:
        nodes = await nodes_of(world, stack)
        owner, _ = nodes[0].attach("t1")
        nodes[0].add(owner, *names(200))
        await world.agree(nodes, "t1", *names(200))
        moved, _ = nodes[1].attach("t1")
        await world.until(lambda: nodes[0].lost == ["t1"], "told to the first")
        written = nodes[1].directory.homes.written
        nodes[1].remove(moved, "s0")
        nodes[1].add(moved, *names(200)[1:], "new")  # most of them as they are
        await world.agree(nodes, "t1", *names(200)[1:], "new")
        assert nodes[1].directory.homes.written - written == 2
        again, _ = nodes[0].attach("t1")
        nodes[0].remove(again, "new")
        await world.agree(nodes, "t1", *names(200)[1:])
        assert nodes[1].lost == ["t1"]


async def test_grace_ends_everywhere_and_redis_keeps_nothing(world: World) -> None:
    async with AsyncExitStack() as stack:
        nodes = await nodes_of(world, stack)
        owner, attachment = nodes[0].attach("t1")
        nodes[0].add(owner, "s")
        await world.agree(nodes, "t1", "s")
        nodes[0].detach(attachment)
        await world.agree(nodes, "t1")
        await world.until(lambda: not [key for key in world.redis.all_keys() if "t1" in key], "no keys")
        back, _ = nodes[1].attach("t1")
        nodes[1].add(back, "again")
        await world.agree(nodes, "t1", "again")


async def test_back_within_its_grace_nothing_is_told_anew(world: World) -> None:
    world.grace = LONG
    async with AsyncExitStack() as stack:
        nodes = await nodes_of(world, stack, 2)
        owner, attachment = nodes[0].attach("t1")
        nodes[0].add(owner, *names(20))
        await world.agree(nodes, "t1", *names(20))
        nodes[0].detach(attachment)
        await world.until(lambda: not nodes[1].registry.owner_named("t1").attached, "in grace")  # type: ignore[union-attr]
        written = nodes[0].directory.homes.written
        nodes[0].attach("t1")
        nodes[0].add(owner, *names(20))
        await world.until(lambda: nodes[1].registry.owner_named("t1").attached, "attached")  # type: ignore[union-attr]
        await world.until(lambda: nodes[0].directory.homes.queued == 0, "nothing to tell")
        await world.agree(nodes, "t1", *names(20))
        assert nodes[0].directory.homes.written == written


async def test_a_relay_that_dies_leaves_its_sessions_to_who_comes_next(world: World) -> None:
    world.grace = LONG
    async with AsyncExitStack() as stack:
        nodes = await nodes_of(world, stack, 2)
        async with AsyncExitStack() as short:
            dying = await short.enter_async_context(world.node("relay-3"))
            owner, _ = dying.attach("t1")
            dying.add(owner, *names(100))
            await world.agree([*nodes, dying], "t1", *names(100))
        moved, _ = nodes[0].attach("t1")
        assert set(moved.sessions) == set(names(100))
        nodes[0].remove(moved, "s5")
        await world.agree(nodes, "t1", *(set(names(100)) - {"s5"}))
        assert nodes[0].directory.mirrors.by_name == {}


async def test_who_comes_while_nobody_speaks_for_a_transceiver_hears_of_it(world: World) -> None:
    world.grace = LONG
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(world.node("relay-1"))
        async with AsyncExitStack() as short:
            dying = await short.enter_async_context(world.node("relay-3"))
            owner, _ = dying.attach("t1")
            dying.add(owner, "s")
            await world.agree([first, dying], "t1", "s")
        await world.until(lambda: first.directory.mirrors.by_name["t1"].silent_since is not None, "silent")
        late = await stack.enter_async_context(world.node("relay-2"))
        await world.agree([first, late], "t1", "s")
        silent = late.directory.mirrors.by_name["t1"].silent_since
        assert silent is not None


async def test_a_relay_that_stops_does_not_say_that_its_transceivers_are_gone(world: World) -> None:
    async with AsyncExitStack() as stack:
        (first,) = await nodes_of(world, stack, 1)
        async with AsyncExitStack() as short:
            stopping = await short.enter_async_context(world.node("relay-3"))
            owner, attachment = stopping.attach("t1")
            stopping.add(owner, "s")
            await world.agree([first, stopping], "t1", "s")
            stopping.directory.leave_soon()
            stopping.add(owner, "last")
            stopping.detach(attachment)
        mirror = first.directory.mirrors.by_name["t1"]
        await world.until(lambda: set(first.sessions("t1")) == {"s", "last"}, "told to the last")
        assert mirror.owner is not None
        assert mirror.owner.attached
        await world.until(lambda: mirror.silent_since is not None, "silent")
        await world.agree([first], "t1")


async def test_redis_away_and_back_empty(world: World) -> None:
    async with AsyncExitStack() as stack:
        nodes = await nodes_of(world, stack)
        owner, _ = nodes[0].attach("t1")
        nodes[0].add(owner, *names(120))
        other, _ = nodes[1].attach("t2")
        nodes[1].add(other, "there")
        await world.agree(nodes, "t1", *names(120))
        await world.agree(nodes, "t2", "there")
        world.redis.kill()
        nodes[0].remove(owner, *names(60))
        nodes[0].add(owner, *names(90)[60:], port=4002)
        nodes[0].add(owner, *names(30, "new"))
        nodes[0].add(owner, "brief")
        nodes[0].remove(owner, "brief")
        third, _ = nodes[2].attach("t3")
        nodes[2].add(third, "meanwhile")
        await asyncio.sleep(1.5 * GRACE)
        assert set(nodes[1].sessions("t1")) == set(names(120))
        assert set(nodes[2].sessions("t2")) == {"there"}
        world.redis.start()
        await world.agree(nodes, "t1", *names(120)[60:], *names(30, "new"))
        await world.agree(nodes, "t2", "there")
        await world.agree(nodes, "t3", "meanwhile")
        assert nodes[1].sessions("t1")["s60"] == [4002]


async def test_an_older_copy_of_redis_takes_over(world: World) -> None:
    """What had been written to the other one is written again, and nothing of before comes back."""
    async with AsyncExitStack() as stack:
        nodes = await nodes_of(world, stack, 2)
        owner, _ = nodes[0].attach("t1")
        nodes[0].add(owner, "old", "both")
        await world.agree(nodes, "t1", "old", "both")
        keys = [key for key in world.redis.all_keys() if key.endswith(":t1")]
        client = nodes[0].directory.link.redis
        dumps = {key: await client.dump(key) for key in keys}
        nodes[0].remove(owner, "old")
        nodes[0].add(owner, "new")
        await world.agree(nodes, "t1", "both", "new")
        for key, dump in dumps.items():
            await client.restore(key, 0, dump, replace=True)
        late = await stack.enter_async_context(world.node("relay-3"))
        await world.agree([*nodes, late], "t1", "both", "new")
        nodes[0].add(owner, "more")
        await world.agree([*nodes, late], "t1", "both", "new", "more")
        assert not any(node.directory.refusals.counts[Refusal.REPLAYED] for node in nodes)


async def test_what_cannot_be_entered_waits_and_holds_up_nobody(world: World) -> None:
    async with AsyncExitStack() as stack:
        nodes = await nodes_of(world, stack, 2)
        nodes[1].hops.cut_off.add(ip_address("10.99.0.10"))
        owner, _ = nodes[0].attach("t1")
        nodes[0].add(owner, "a", "b")
        await world.until(lambda: nodes[1].directory.mirrors.pending == 2, "two wait")
        nodes[0].remove(owner, "a")
        await world.until(lambda: nodes[1].directory.mirrors.pending == 1, "one waits")
        nodes[1].hops.cut_off.clear()
        await world.agree(nodes, "t1", "b")
        assert nodes[1].directory.mirrors.pending == 0


# ---- what is not true --------------------------------------------------------------------------


async def test_forged_and_foreign_messages_change_nothing(world: World) -> None:
    async with AsyncExitStack() as stack:
        nodes = await nodes_of(world, stack, 2)
        stranger = await stack.enter_async_context(world.node("stranger", {3: FleetKey.of(bytes(32))}))
        other_number = await stack.enter_async_context(world.node("other", {4: FleetKey.of(bytes(32))}))
        owner, _ = nodes[0].attach("t1")
        nodes[0].add(owner, "s")
        foreign, _ = stranger.attach("t1")
        stranger.add(foreign, "evil")
        await world.agree(nodes, "t1", "s")
        journal = nodes[0].directory.journal
        client = nodes[0].directory.link.redis
        for fields in ({b"x": b""}, {FIELD: b"junk"}, {FIELD: b"\x02" + bytes(64)}):
            await client.xadd(journal.key, fields)
        await client.xadd(journal.key, {FIELD: journal.seal(b"\xff\xff")})
        counts = nodes[1].directory.refusals.counts
        await world.until(
            lambda: {Refusal.FORGED, Refusal.KEY, Refusal.MALFORMED, Refusal.VERSION} <= set(counts),
            "counted",
        )
        nodes[0].add(owner, "more")
        await world.agree(nodes, "t1", "s", "more")
        assert set(stranger.sessions("t1")) == {"evil"}
        assert other_number.sessions("t1") == {}


async def test_messages_that_are_said_again_change_nothing(world: World) -> None:
    async with AsyncExitStack() as stack:
        nodes = await nodes_of(world, stack, 2)
        owner, _ = nodes[0].attach("t1")
        nodes[0].add(owner, "gone")
        await world.agree(nodes, "t1", "gone")
        client = nodes[0].directory.link.redis
        key = nodes[0].directory.journal.key
        before = await client.xrange(key)
        assert before
        nodes[0].remove(owner, "gone")
        nodes[0].add(owner, "s")
        await world.agree(nodes, "t1", "s")
        for _, fields in before:
            await client.xadd(key, fields)
        counts = nodes[1].directory.refusals.counts
        await world.until(lambda: counts[Refusal.REPLAYED] == len(before), "counted")
        nodes[0].add(owner, "more")
        await world.agree(nodes, "t1", "s", "more")


async def test_a_state_that_was_tampered_with_is_not_believed_and_is_written_anew(world: World) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(world.node("relay-1"))
        owner, _ = first.attach("t1")
        first.add(owner, "old", "both")
        await world.until(lambda: first.directory.homes.written == 2, "written")
        client = first.directory.link.redis
        state = "earshot:state:t1"
        before = await client.hgetall(state)
        first.remove(owner, "old")
        await world.until(lambda: first.directory.homes.written == 3, "written")
        await client.hset(state, "old", before[b"old"])  # sealed by a relay, for this place
        late = await stack.enter_async_context(world.node("relay-2"))
        await world.agree([first, late], "t1", "both")
        assert late.directory.refusals.counts[Refusal.DIFFERS] >= 1
        assert late.directory.mirrors.by_name["t1"].is_damaged is False


async def test_an_old_state_is_not_taken_for_the_one_that_is(world: World) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(world.node("relay-1"))
        owner, _ = first.attach("t1")
        first.add(owner, "old", "both")
        await world.until(lambda: first.directory.homes.written == 2, "written")
        client = first.directory.link.redis
        old = await client.dump("earshot:state:t1")
        first.remove(owner, "old")
        await world.until(lambda: first.directory.homes.written == 3, "written")
        await client.restore("earshot:state:t1", 0, old, replace=True)
        late = await stack.enter_async_context(world.node("relay-2"))
        seen = set[str]()

        def has_both() -> bool:
            seen.update(late.sessions("t1"))
            return set(late.sessions("t1")) == {"both"}

        await world.until(has_both, "the state that is")
        assert seen == {"both"}
        assert late.directory.refusals.counts[Refusal.DIFFERS] >= 1


async def test_a_lease_that_somebody_forged_is_taken_back(world: World) -> None:
    async with AsyncExitStack() as stack:
        nodes = await nodes_of(world, stack, 2)
        owner, _ = nodes[0].attach("t1")
        nodes[0].add(owner, "s")
        await world.agree(nodes, "t1", "s")
        client = nodes[0].directory.link.redis
        epoch = nodes[0].directory.homes.by_name["t1"].epoch
        await client.set("earshot:lease:t1", f"{epoch + 1000} 1 {'0' * 32}")
        nodes[0].add(owner, "more")
        await world.agree(nodes, "t1", "s", "more")
        assert nodes[0].lost == []


async def test_another_key_seals_and_nobody_misses_anything(world: World) -> None:
    async with AsyncExitStack() as stack:
        nodes = await nodes_of(world, stack, 2)
        owner, _ = nodes[0].attach("t1")
        nodes[0].add(owner, *names(20))
        await world.agree(nodes, "t1", *names(20))
        new = {5: FleetKey.of(b"n" * 32)}
        for node in nodes:
            node.directory.reconfigure("r", {**KEYS, **new}, GRACE, GRACE)
        for node in nodes:
            node.directory.reconfigure("r", {**new, **KEYS}, GRACE, GRACE)
        nodes[0].add(owner, "more")
        await world.agree(nodes, "t1", *names(20), "more")
        await world.until(lambda: nodes[0].directory.homes.queued == 0, "written")
        for node in nodes:
            node.directory.reconfigure("r", new, GRACE, GRACE)
        late = await stack.enter_async_context(world.node("late", new))
        await world.agree([*nodes, late], "t1", *names(20), "more")
        assert Sealer(new).number == 5


async def test_two_relays_of_one_name_are_told_of(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.directory.presence.LEASE_SECONDS", 0.5)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(world.node("relay-1"))
        await world.until(lambda: first.directory.presence.is_ours, "taken")
        second = await stack.enter_async_context(world.node("relay-1"))
        await world.until(lambda: second.directory.presence.is_disputed, "disputed")
        owner, _ = second.attach("t1")
        second.add(owner, "s")
        await world.agree([first, second], "t1", "s")
        assert not first.directory.presence.is_disputed
