# SPDX-License-Identifier: Apache-2.0
"""Who may take a relay's addresses, and until when it binds at them, whatever happens to relays and store.

In simulated time (promise_world.py). That real relays do it so is held by tests/fleet.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.directory.errors import Refusal, SealError
from control.directory.seal import Opened
from control.replication.promises import PROMISE_MS, SLACK_NS, Promises
from control.replication.question import Answer, Question, decode
from tests.lab.nightly import NIGHTLY
from tests.unit.promise_world import RELAYS, Relay, World, address_of, each, simulate

SETTLE = 6.0  # daemons that have just been started promise nothing
AWAY = 5.0
CASES = int(os.environ.get("EARSHOT_PROMISE_CASES", "2000" if NIGHTLY else "30"))
STEP = 0.02
ALL = tuple(range(RELAYS))


async def settled(world: World) -> None:
    await asyncio.sleep(SETTLE)
    assert all(relay.binds() for relay in world.relays), list(each(world))


async def bind_all_the_while(relays: list[Relay], seconds: float) -> None:
    for _ in range(round(seconds / STEP)):
        await asyncio.sleep(STEP)
        assert all(relay.binds() for relay in relays)


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    for _ in range(round(seconds / STEP)):
        if condition():
            return
        await asyncio.sleep(STEP)
    raise AssertionError("it does not come to that")


# ---- the store is away ------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["killed", "hangs", "comes back empty"])
def test_new_calls_are_bound_while_the_store_is_away(how: str) -> None:
    async def play() -> None:
        world = World()
        async with world.running():
            await settled(world)
            if how == "hangs":
                world.store.is_running.clear()
            else:
                world.store.kill()
            await bind_all_the_while(world.relays, AWAY)
            if how == "comes back empty":
                world.store.wipe()
            world.store.is_there = True
            world.store.is_running.set()
            await bind_all_the_while(world.relays, AWAY)
        assert not world.faults
        assert not world.takes

    simulate(play())


def test_a_relay_that_is_cut_off_from_the_store_alone_goes_on() -> None:
    async def play() -> None:
        world = World()
        async with world.running():
            await settled(world)
            world.relays[0].is_cut_off = True
            await bind_all_the_while(world.relays, AWAY)
            world.relays[0].is_cut_off = False
            await bind_all_the_while(world.relays, AWAY)
        assert not world.takes

    simulate(play())


def test_a_relay_dies_while_the_store_is_away() -> None:
    """It promises nothing, so the others bind no longer; nor do they take what they promised to leave."""

    async def play() -> None:
        world = World()
        dead, *others = world.relays
        async with world.running():
            await settled(world)
            world.store.kill()
            await asyncio.sleep(AWAY)
            await dead.kill()
            await until(lambda: not any(relay.binds() for relay in world.relays))
            assert not world.takes
            world.store.is_there = True
            await until(lambda: any(one.answers_for(dead.address) for one in others))
            await until(lambda: all(relay.binds() for relay in others))
        assert not world.faults
        assert [address for _, _, address in world.takes] == [dead.address]

    simulate(play())


def test_what_has_died_before_is_answered_for_while_the_store_is_away() -> None:
    """Until its own relay is there again, which then binds without the store."""

    async def play() -> None:
        world = World()
        dead, *others = world.relays
        async with world.running():
            await settled(world)
            await dead.kill()
            await until(lambda: any(one.answers_for(dead.address) for one in others))
            world.store.kill()
            for _ in range(round(3 * AWAY / STEP)):
                await asyncio.sleep(STEP)
                assert any(one.answers_for(dead.address) for one in others)
            assert not any(relay.binds() for relay in world.relays)
            dead.start()
            await until(lambda: not any(one.answers_for(dead.address) for one in others))
            await until(lambda: all(relay.binds() for relay in world.relays))
        assert not world.faults

    simulate(play())


def test_an_empty_store_does_not_know_what_was_granted() -> None:
    """A relay that cannot tell it binds still: nobody takes its addresses before that is over."""

    async def play() -> None:
        world = World()
        first = world.relays[0]
        async with world.running():
            await settled(world)
            world.cut |= {(0, 1), (0, 2)}  # nor can it ask the others
            first.is_cut_off = True
            world.store.wipe()
            await until(lambda: bool(world.takes))
        assert not world.faults, world.faults

    simulate(play())


def test_what_took_long_to_reach_the_link_is_not_taken_late() -> None:
    """One address after the other: the second one's lease is over when its turn has come."""

    async def play() -> None:
        world = World()
        async with world.running():
            await settled(world)
            await world.relays[0].kill()
            world.cut, world.link_delay = {(1, 2)}, 0.3
            await asyncio.sleep(2 * AWAY)
        assert world.takes
        assert not world.faults, world.faults

    simulate(play())


def test_who_is_about_to_take_an_address_does_not_promise_it() -> None:
    async def play() -> None:
        world = World()
        first, second, _ = world.relays
        async with world.running():
            await settled(world)
            world.link_delay = 0.3
            world.cut |= {(0, 1)}
            first.is_cut_off = True
            await until(lambda: second.leases is not None and second.leases.taken.holds(first.address))
            assert not second.answers_for(first.address)
            world.cut.clear()
            await until(lambda: second.answers_for(first.address))
            await asyncio.sleep(AWAY)
            assert not first.binds()
        assert not world.faults, world.faults

    simulate(play())


@pytest.mark.parametrize("tenths", range(5))
def test_an_answer_that_was_long_under_way_is_no_longer_promise(tenths: int) -> None:
    """It counts from before it was asked for: later questions may have been lost."""

    async def play() -> None:
        world = World(tenths)
        first, *others = world.relays
        async with world.running():
            await settled(world)
            first.is_cut_off, world.delay = True, 0.3
            await asyncio.sleep(2 + tenths / 10)
            world.cut = {(0, 1), (0, 2)}
            await until(lambda: any(one.answers_for(first.address) for one in others))
        assert not world.faults, world.faults

    simulate(play())


@pytest.mark.parametrize("steps", range(16))
def test_what_the_store_grants_does_not_count_against_a_promise(steps: int) -> None:
    """Which was given while the store had not answered yet."""

    async def play() -> None:
        world = World(steps)
        first, *_ = world.relays
        async with world.running():
            await settled(world)
            first.is_cut_off, world.cut, world.store.delay = True, {(0, 1), (0, 2)}, 0.1
            await asyncio.sleep(0.5 + steps / 20)
            world.cut = set()
            await asyncio.sleep(AWAY)
        assert not world.faults, world.faults

    simulate(play())


def test_a_relay_does_not_bind_without_the_word_of_each_other_one() -> None:
    async def play() -> None:
        world = World()
        async with world.running():
            await settled(world)
            world.cut |= {(2, 0)}  # its answers to the first one, and its questions
            world.store.kill()
            await until(lambda: not world.relays[0].binds())
            assert world.relays[1].binds()
            world.cut.clear()
            await until(lambda: all(relay.binds() for relay in world.relays))
        assert not world.faults

    simulate(play())


def test_a_relay_that_the_others_do_not_know_of_is_feared() -> None:
    """It takes us for one of its group, and may take our addresses; we would not ask it."""
    promises, now = lone_promises()
    assert promises.until(now) > now
    stranger = Question("n", OURS, "", (ip_address("10.20.0.77"),), 0)
    promises.hear(Opened(stranger.encode(), b"s" * 16, 1), now)
    assert promises.until(now) == 0


# ---- whatever happens -------------------------------------------------------------------------

EVENTS = st.one_of(
    st.tuples(st.just("store"), st.sampled_from(["kill", "start", "wipe", "hang", "go on", "slow", "fast"])),
    st.tuples(
        st.just("relay"),
        st.sampled_from(ALL),
        st.sampled_from(["kill", "start", "freeze", "thaw", "cut off", "connect", "break", "mend", "leave"]),
    ),
    st.tuples(st.just("network"), st.sampled_from(["slow", "fast", "lossy", "good", "slow links"])),
    st.tuples(st.just("cut"), st.sampled_from(ALL), st.sampled_from(ALL)),
    st.tuples(st.just("replay"), st.integers(0, 10_000)),
)


async def happen(world: World, event: tuple[Any, ...]) -> None:
    match event:
        case ("store", "kill"):
            world.store.kill()
        case ("store", "start"):
            world.store.is_there = True
        case ("store", "wipe"):
            world.store.kill()
            world.store.wipe()
            world.store.is_there = True
        case ("store", "hang"):
            world.store.is_running.clear()
        case ("store", "go on"):
            world.store.is_running.set()
        case ("store", speed):
            world.store.delay = {"slow": 0.25, "fast": 0.001}[speed]
        case ("relay", number, what):
            await happen_to(world.relays[number], what)
        case ("network", how):
            world.delay = {"slow": 0.4, "fast": 0.001}.get(how, world.delay)
            world.loss = {"lossy": 0.5, "good": 0.0}.get(how, world.loss)
            world.link_delay = {"slow links": 0.3, "fast": 0.001}.get(how, world.link_delay)
        case ("cut", first, second):
            world.cut ^= {(first, second)}
        case ("replay", which):
            world.replay(which)


async def happen_to(relay: Relay, what: str) -> None:
    match what:
        case "kill":
            await relay.kill()
        case "start":
            relay.start()
        case "freeze":
            relay.awake.clear()
        case "thaw":
            relay.awake.set()
        case "cut off" | "connect":
            relay.is_cut_off = what == "cut off"
        case "break" | "mend":
            relay.is_fit = what == "mend"
        case "leave" if relay.leases is not None:
            relay.leases.is_leaving = not relay.leases.is_leaving


@pytest.mark.timeout(120 if CASES <= 30 else 0)
@settings(max_examples=CASES, deadline=None)
@given(
    st.integers(0, 3),
    st.lists(st.tuples(st.one_of(st.integers(0, 6), st.integers(0, 40)), EVENTS), max_size=16),
)
def test_nobody_takes_what_another_one_binds_at(seed: int, events: list[tuple[int, tuple[Any, ...]]]) -> None:
    """And nobody binds by promise at what another one answers for."""

    async def play() -> None:
        world = World(seed)
        async with world.running():
            await asyncio.sleep(SETTLE)
            for wait, event in events:
                await asyncio.sleep(wait * 0.05)
                await happen(world, event)
            await asyncio.sleep(AWAY)
        assert not world.faults, world.faults

    simulate(play())


# ---- what is said -----------------------------------------------------------------------------

OURS, THEIRS = address_of(0), address_of(1)
INSTANCE = b"i" * 16
THEIR_INSTANCE = b"t" * 16
LATER = 10_000_000_000


def lone_promises() -> tuple[Promises, int]:
    """Of a relay that has just been promised all that it needs; and when that was."""
    made = Promises(INSTANCE, 0, lambda: [OURS], lambda: [THEIRS], lambda _: False)
    made.hear(answer_to(made, PROMISE_MS), LATER)
    return made, LATER


def answer_to(promises: Promises, milliseconds: int) -> Opened:
    ((_, payload),) = promises.questions(milliseconds, LATER)
    question = decode(payload)
    assert isinstance(question, Question)
    answer = Answer(question.nonce, (THEIRS,), milliseconds)
    return Opened(answer.encode(), THEIR_INSTANCE, 1)


def ask(promises: Promises, counter: int, instance: str = INSTANCE.hex(), milliseconds: int = 500) -> int:
    """What it promises to a question, in milliseconds."""
    question = Question("n", OURS, instance, (THEIRS,), milliseconds)
    said = promises.hear(Opened(question.encode(), THEIR_INSTANCE, counter), LATER)
    assert said is not None
    answer = decode(said)
    assert isinstance(answer, Answer)
    assert answer.addresses == (OURS,)
    return answer.milliseconds


def test_a_promise_is_over_for_who_has_it_before_it_is_for_who_gave_it() -> None:
    promises, now = lone_promises()
    assert promises.until(now) == now + PROMISE_MS * 1_000_000 - SLACK_NS
    assert ask(promises, 1) == 500
    assert promises.is_barred(THEIRS, now + 499_999_999)
    assert not promises.is_barred(THEIRS, now + 500_000_000)


def test_nobody_gets_a_longer_promise_than_a_lease_is_long() -> None:
    promises, now = lone_promises()
    assert ask(promises, 1, milliseconds=10**9) == PROMISE_MS
    assert not promises.is_barred(THEIRS, now + PROMISE_MS * 1_000_000)


def test_a_question_is_heard_once() -> None:
    promises, _ = lone_promises()
    assert ask(promises, 5) == 500
    for counter in (5, 4):
        with pytest.raises(SealError) as caught:
            ask(promises, counter)
        assert caught.value.why is Refusal.REPLAYED


def test_a_question_to_a_former_daemon_gets_no_promise() -> None:
    """Recorded while that one ran: nothing of it is remembered here."""
    promises, now = lone_promises()
    assert ask(promises, 1, instance="") == 0
    assert ask(promises, 2, instance=THEIR_INSTANCE.hex()) == 0
    assert not promises.is_barred(THEIRS, now)


def test_nothing_is_promised_of_what_is_taken() -> None:
    promises = Promises(INSTANCE, 0, lambda: [OURS], lambda: [THEIRS], lambda one: one == THEIRS)
    assert ask(promises, 1) == 0
    assert promises.counts["refused"] == 1


def test_nothing_is_promised_by_who_does_not_know_what_it_has_taken() -> None:
    promises = Promises(INSTANCE, LATER, lambda: [OURS], lambda: [THEIRS], lambda _: False)
    assert ask(promises, 1) == 0
    assert promises.is_barred(THEIRS, LATER)


def test_answers_count_for_what_was_asked() -> None:
    promises = Promises(INSTANCE, 0, lambda: [OURS], lambda: [THEIRS], lambda _: False)
    promises.hear(Opened(Answer("other", (THEIRS,), PROMISE_MS).encode(), THEIR_INSTANCE, 2), LATER)
    assert promises.until(LATER) == 0


def test_promises_do_not_count_for_addresses_that_were_added_since() -> None:
    own = [OURS]
    promises = Promises(INSTANCE, 0, lambda: own, lambda: [THEIRS], lambda _: False)
    late = answer_to(promises, PROMISE_MS)
    promises.hear(answer_to(promises, PROMISE_MS), LATER)
    assert promises.until(LATER) > LATER
    own.append(address_of(2))
    answer_to(promises, PROMISE_MS)
    promises.hear(late, LATER)
    assert promises.until(LATER) == 0


def test_who_answers_is_there() -> None:
    promises, now = lone_promises()
    assert promises.absent(now) == 0
    assert promises.absent(now + 60_000_000_000) == 1


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"", Refusal.MALFORMED),
        (b"[]", Refusal.MALFORMED),
        (b'{"version":2}', Refusal.VERSION),
        (b'{"version":1,"kind":"ask"}', Refusal.MALFORMED),
        (Answer("n" * 33, (), 0).encode(), Refusal.MALFORMED),
        (Answer("n", (), -1).encode(), Refusal.MALFORMED),
        (Answer("n", (OURS,), 1).encode().replace(b"10.20.0.1", b"10.20.0"), Refusal.MALFORMED),
        (Answer("n", (OURS,), 1).encode().replace(b"answer", b"thanks"), Refusal.MALFORMED),
    ],
)
def test_what_cannot_be_is_refused(payload: bytes, why: Refusal) -> None:
    with pytest.raises(SealError) as caught:
        decode(payload)
    assert caught.value.why is why


@given(st.text(max_size=32), st.lists(st.ip_addresses(), max_size=16), st.integers(0, 10**6))
def test_what_is_said_comes_out_again(nonce: str, addresses: list[Any], milliseconds: int) -> None:
    for said in (
        Answer(nonce, tuple(addresses), milliseconds),
        Question(nonce, OURS, INSTANCE.hex(), tuple(addresses), milliseconds),
    ):
        assert decode(said.encode()) == said
