# SPDX-License-Identifier: Apache-2.0
"""Calls to earshot-agent, the backend that listens and speaks: real sound, real recognition, real speech."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from tests.lab.signals import RATE
from tests.lab.speech import silence, spoken
from tests.unit.speech_world import kinds, talking
from tests.unit.transceiver_world import Transceiver, eventually, running_relay, running_transceiver


@asynccontextmanager
async def transceiver_with_agent() -> AsyncIterator[Transceiver]:
    with tempfile.TemporaryDirectory(prefix="est-") as folder:
        target, log = f"unix:{folder}/agent.sock", Path(folder) / "log"
        with log.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                Path(sys.executable).parent / "earshot-agent", "--listen", target, stderr=file
            )
        try:
            await eventually(lambda: "event=ready" in log.read_text() or process.returncode is not None)
            async with (
                running_relay() as relay,
                running_transceiver(relay, "--backend", target) as transceiver,
            ):
                yield transceiver
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 10) == 0
            assert "ERROR" not in log.read_text()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def test_a_turn_is_heard_recognised_and_answered(
    record_property: Callable[[str, object], None],
) -> None:
    phrase = spoken("banana")
    sound = np.concatenate([silence(1.5), phrase, silence(5.0)])
    async with transceiver_with_agent() as transceiver, talking(transceiver, sound) as talker:
        about = await talker.told(type="agent")
        assert "no language model" in about["about"]
        assert "banana" in about["phrases"]
        transcript = await talker.told(type="transcript")
        assert transcript["text"] == "banana"
        reply = await talker.told(type="reply", text="Bananas are yellow.")
        await talker.told(type="reply_ended", utterance=reply["utterance"], interrupted=False)
        assert kinds(talker.events) == [
            "session ready",
            "agent",
            "reply",  # the greeting, which is cut short
            "turn began",
            "interrupted",
            "reply_ended",
            "turn ended",
            "transcript",
            "reply",
            "reply_ended",
        ]
        assert talker.events[5]["interrupted"]
        turn = await talker.told(type="turn", state="ended")
        assert turn["ms"] > len(phrase) / RATE * 1000
        ended_at = talker.played_until(round(1.5 * RATE) + len(phrase))
        answers = [time for time in talker.loud if time > ended_at]
        assert answers
        record_property("end_of_speech_to_first_audio_ms", round((answers[0] - ended_at) * 1e3))
        record_property("of_which_waiting_for_the_turns_end_ms", 500)


async def test_what_is_typed_is_answered_too_and_good_bye_ends_the_call() -> None:
    async with transceiver_with_agent() as transceiver, talking(transceiver) as talker:
        await talker.told(type="agent")
        talker.send('{"type": "say", "text": "Banana"}')
        await talker.told(type="reply", text="Bananas are yellow.")
        talker.send('{"type": "say", "text": "goodbye"}')
        await talker.told(type="session", state="ended", reason="goodbye")
        await eventually(lambda: "reason=backend_ended" in transceiver.log)
