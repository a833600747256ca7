# SPDX-License-Identifier: Apache-2.0
"""The scripts of leases in a real Redis, beside what the simulation has in their place."""

from __future__ import annotations

from random import Random
from typing import Any

from control.directory.link import Link
from control.replication import lease
from tests.unit.promise_world import Store

ADDRESSES = [lease.key_of(address) for address in ("10.20.0.1", "10.20.0.2")]
RELAYS = [b"first", b"second", b"third"]
LONG = 600_000  # milliseconds: nothing runs out here
STEPS = 600


async def test_the_simulated_store_does_what_redis_does(link: Link) -> None:
    """Step by step, whoever asks for what: the same answers, and the same keys and values afterwards."""
    store, random = Store(), Random(7)
    store.delay = 0.0
    scripts = {text: link.redis.register_script(text) for text in (lease.HOLD, lease.WATCH, lease.LEAVE)}
    written = dict.fromkeys(RELAYS, 0)
    whole = 0
    for step in range(STEPS):
        me = random.choice(RELAYS)
        text = random.choice(list(scripts))
        keys = random.sample(ADDRESSES, random.choice((1, 2)))
        args: list[Any] = [me, LONG]
        if text == lease.WATCH:
            last = random.choice((written[me], written[me], step))
            args += [last, step, *random.choices((0, 1, 2), k=len(keys))]
            keys.append(f"watch:{me.decode()}")
            written[me] = step
        answer = await scripts[text](keys=keys, args=args)
        simulated = await store.carry_out(text, keys, args)
        if text != lease.LEAVE:  # which has nothing to say
            assert answer == simulated, (step, text, keys, args)
        whole += text == lease.WATCH and answer[-1] == b"1"
        for key in (*ADDRESSES, *(f"{one}:back" for one in ADDRESSES), f"watch:{me.decode()}"):
            assert await link.redis.get(key) == store.get(key), (step, key)
    assert whole > STEPS / 10
