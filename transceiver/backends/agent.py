# SPDX-License-Identifier: Apache-2.0
"""earshot-agent: a small voice agent without a network, as a reference of what a real backend does.

It hears when the client begins and ends to speak, stops speaking when the client does (barge-in), recognises
one of a few phrases, and answers. What it does, the client is told:

    {"type": "agent", "about": "...", "phrases": [...]}
    {"type": "turn", "state": "began"}                            the client speaks
    {"type": "turn", "state": "ended", "ms": n}                   it has spoken for so long
    {"type": "transcript", "text": "...", "ms": n}                what it said, if anything that is known
    {"type": "reply", "text": "...", "utterance": n, "ms": n}     the first of its sound leaves
    {"type": "reply_ended", "utterance": n, "interrupted": bool}

`ms` of transcript and reply are from the moment that the turn's end was noticed. A message
`{"type": "say", "text": "..."}` of the client is answered as if it had been said.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import Coroutine
from contextlib import aclosing
from typing import Any

import click
import webrtcvad
from earshot.speech.v1 import speech_pb2 as pb

from transceiver.backends import voice
from transceiver.backends.recogniser import RATE, Recogniser
from transceiver.backends.replies import ABOUT, GOODBYE, GREETING, PHRASES, reply_to
from transceiver.backends.service import serve
from transceiver.backends.session import Heard, Message, Session, Spoken
from transceiver.backends.turns import Began, Ended, Patience, Turns

FRAME_BYTES = RATE // 50 * 2
AGGRESSIVENESS = 2  # of webrtcvad, 0 to 3
TEXT_LIMIT = 200  # characters of a typed phrase
_SENTENCE_END = re.compile(r"(?<=[.!?]) ")

_log = logging.getLogger("earshot.agent")


class Agent:
    """The backend: what all sessions share (`service.Backend`)."""

    audio_format = pb.AudioFormat(encoding=pb.ENCODING_PCM_S16LE, rate_hz=RATE)
    speech_format = pb.AudioFormat(encoding=pb.ENCODING_PCM_S16LE, rate_hz=voice.RATE)

    def __init__(self, recogniser: Recogniser, patience: Patience) -> None:
        self._recogniser = recogniser
        self._patience = patience

    async def converse(self, session: Session) -> str:
        return await Dialogue(session, self._recogniser, self._patience).run()


class Dialogue:
    """One session's."""

    def __init__(self, session: Session, recogniser: Recogniser, patience: Patience) -> None:
        self._session = session
        self._recogniser = recogniser
        self._vad = webrtcvad.Vad(AGGRESSIVENESS)
        self._turns = Turns(patience)
        self._partial = b""
        self._reply: asyncio.Task[object] | None = None  # being thought of, or being said
        self._last: int | None = None  # the utterance after which the session ends

    async def run(self) -> str:
        """Returns the reason for the session's end."""
        self._session.tell({"type": "agent", "about": ABOUT, "phrases": PHRASES})
        if self._session.start.attempt == 1:
            self._begin(self._say(GREETING, time.monotonic()))
        try:
            async for event in self._session:
                if isinstance(event, Heard):
                    self._hear(event)
                elif isinstance(event, Message):
                    self._read(event.value)
                elif self._spoken(event):
                    break
        finally:
            self._stop_thinking()
        return "goodbye"

    def _hear(self, heard: Heard) -> None:
        self._partial += heard.data
        while len(self._partial) >= FRAME_BYTES:
            frame, self._partial = self._partial[:FRAME_BYTES], self._partial[FRAME_BYTES:]
            what = self._turns.hear(heard.timestamp_us, frame, self._vad.is_speech(frame, RATE))
            if isinstance(what, Began):
                self._session.tell({"type": "turn", "state": "began"})
                self._hush()
            elif isinstance(what, Ended):
                self._session.tell({"type": "turn", "state": "ended", "ms": len(what.sound) * 500 // RATE})
                self._begin(self._respond(what.sound))

    def _read(self, value: object) -> None:
        if isinstance(value, dict) and value.get("type") == "say" and isinstance(value.get("text"), str):
            self._hush()
            self._begin(self._answer(value["text"][:TEXT_LIMIT].strip().lower(), time.monotonic()))

    def _spoken(self, spoken: Spoken) -> bool:
        """Whether that was the last word."""
        self._session.tell(
            {"type": "reply_ended", "utterance": spoken.utterance, "interrupted": spoken.interrupted}
        )
        return spoken.utterance == self._last and not spoken.interrupted

    def _hush(self) -> None:
        """The client speaks: what is being said is dropped, and what was going to be."""
        self._stop_thinking()
        self._session.stop()

    def _begin(self, reply: Coroutine[Any, Any, object]) -> None:
        self._stop_thinking()
        self._reply = asyncio.create_task(reply)
        self._reply.add_done_callback(_report)

    def _stop_thinking(self) -> None:
        if self._reply is not None:
            self._reply.cancel()
            self._reply = None

    async def _respond(self, sound: bytes) -> None:
        since = time.monotonic()
        phrase = await self._recogniser.recognise(sound)
        self._session.tell({"type": "transcript", "text": phrase, "ms": _ms(since)})
        await self._answer(phrase, since)

    async def _answer(self, phrase: str, since: float) -> None:
        utterance = await self._say(reply_to(phrase), since)
        if phrase == GOODBYE:
            self._last = utterance

    async def _say(self, text: str, since: float) -> int:
        """Says a text, sentence by sentence, so that the first is heard while the next is made."""
        utterance = self._session.begin_utterance()
        begun = False
        for sentence in _SENTENCE_END.split(text):
            async with aclosing(voice.speak(sentence)) as pieces:
                async for piece in pieces:
                    if not begun:
                        begun = True
                        self._session.tell(
                            {"type": "reply", "text": text, "utterance": utterance, "ms": _ms(since)}
                        )
                    await self._session.say(utterance, piece)
        await self._session.say(utterance, b"", last=True)
        return utterance


def _report(reply: asyncio.Task[object]) -> None:
    """A reply that failed is not said; the session goes on."""
    if not reply.cancelled() and reply.exception() is not None:
        _log.error("event=reply_failed detail=%r", str(reply.exception()))


def _ms(since: float) -> int:
    return round((time.monotonic() - since) * 1000)


@click.command(context_settings={"auto_envvar_prefix": "EARSHOT_AGENT", "show_default": True})
@click.option("--listen", required=True, help="unix:PATH, or HOST:PORT of a loopback address.")
@click.option("--capacity", default=20, type=click.IntRange(min=1), help="Sessions at a time.")
@click.option(
    "--turn-silence", default=500, type=click.IntRange(100, 5000), help="Milliseconds that end a turn."
)
def main(listen: str, capacity: int, turn_silence: int) -> None:
    """A small voice agent without a network, as a speech backend of earshot-transceiver.

    \b
    Example:
      earshot-agent --listen unix:/run/earshot/agent.sock
      earshot-transceiver --backend unix:/run/earshot/agent.sock ...
    """
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        voice.check()
        recogniser = Recogniser(PHRASES, decoders=os.cpu_count() or 1)
        agent = Agent(recogniser, Patience(silence=turn_silence))
        asyncio.run(serve(agent, listen, capacity, lambda: _log.info("event=ready listen=%s", listen)))
    except (voice.VoiceError, OSError) as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
