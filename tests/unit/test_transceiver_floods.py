# SPDX-License-Identifier: Apache-2.0
"""Floods of offers and of messages, beside which calls go on."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import aiohttp

from tests.lab.caller import place_call
from tests.lab.resident import growth
from tests.unit.speech_world import backend, read_on, ready, talking
from tests.unit.test_transceiver_sdp import OFFER
from tests.unit.transceiver_world import CLIENT, eventually, metric, running_relay, running_transceiver

POSTS_PER_SECOND, SECONDS = 1000, 3
CALLS = 10  # that there may be at a time
MEMORY = 16 << 20  # bytes that a flood of offers may cost: some calls, and what is being answered
WHOLE = 0.9  # correlation of a sound of which nothing is missing; coding takes a little of it


async def test_a_call_hears_nothing_of_a_thousand_offers_a_second(
    record_property: Callable[[str, object], None],
) -> None:
    """By one client, for some seconds; what is too much is told when to come again."""
    async with (
        running_relay() as relay,
        running_transceiver(relay, "--max-calls", str(CALLS), "--setup-timeout", "2") as transceiver,
        aiohttp.ClientSession(transceiver.url) as http,
    ):
        call = asyncio.create_task(place_call(transceiver.whip, seconds=5.0, local_address=CLIENT))
        await eventually(lambda: "event=call_connected" in transceiver.log)
        assert transceiver.process.pid
        with growth(transceiver.process.pid) as memory:
            posting = asyncio.create_task(_posting(transceiver.whip))
            most = 0
            while not posting.done():
                most = max(most, len(relay.sessions))
                await asyncio.sleep(0.01)
        outcome = await posting
        record_property("offers", json.dumps(outcome | {"memory_mib": memory.bytes >> 20}))
        statuses = outcome["statuses"]
        assert set(statuses) == {"201", "503"}
        assert sum(statuses.values()) == POSTS_PER_SECOND * SECONDS
        assert outcome["without_retry_after"] == 0
        # Those that are ending have made room, while the relay has yet to forget them.
        assert CALLS <= most <= 2 * CALLS
        assert memory.bytes < MEMORY
        async with http.get("/metrics") as response:
            counted = metric(await response.text(), 'earshot_transceiver_setups_total{result="busy"}')
        assert counted == statuses["503"]
        result = await call
        assert result.error is None
        assert result.widest_gap_ms == 0, result
        assert result.correlation > WHOLE, result
        await eventually(lambda: not relay.sessions)


async def _posting(whip: str) -> dict[str, Any]:
    """What became of the offers; they are posted by a process of its own, which nothing else holds up."""
    argv = ("--whip", whip, "--rate", str(POSTS_PER_SECOND), "--seconds", str(SECONDS))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.lab.offers", *argv),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    said, _ = await process.communicate(OFFER.encode())
    assert process.returncode == 0
    outcome: dict[str, Any] = json.loads(said)
    return outcome


async def test_a_flood_of_messages_is_answered_by_a_word_and_no_other_call_notices() -> None:
    async def script(context: object) -> None:
        await ready(context)
        await read_on(context)

    async with (
        backend(script) as (target, _),
        running_relay() as relay,
        running_transceiver(relay, "--backend", target) as transceiver,
        talking(transceiver) as flooding,
        talking(transceiver) as other,
    ):
        await flooding.told(state="ready")
        await other.told(state="ready")
        for _ in range(400):
            flooding.send('{"flood": true}')
        assert (await flooding.told(type="error", reason="too_many"))["limit"] == 50
        flooding.send("x" * 200_000)
        flooding.send(b"\0" * 100)
        other.send("[")
        await other.told(type="error", reason="not_json")
        assert [event["type"] for event in other.events] == ["session", "error"]
