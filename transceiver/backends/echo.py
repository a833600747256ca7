# SPDX-License-Identifier: Apache-2.0
"""A backend that says again what it hears: the least that one has to do, and a measure of the stream's cost.

python -m transceiver.backends.echo --listen unix:/run/earshot/echo.sock
"""

from __future__ import annotations

import asyncio

import click
from earshot.speech.v1 import speech_pb2 as pb

from transceiver.backends.service import serve
from transceiver.backends.session import Heard, Message, Session


class EchoBackend:
    """Sound and messages go back as they came (`service.Backend`)."""

    def __init__(self, audio: pb.AudioFormat) -> None:
        self.audio_format = self.speech_format = audio

    async def converse(self, session: Session) -> str:
        utterance = session.begin_utterance()
        async for event in session:
            if isinstance(event, Heard):
                await session.say(utterance, event.data)
            elif isinstance(event, Message):
                session.tell({"type": "echo", "data": event.value})
        return "done"


@click.command(context_settings={"show_default": True})
@click.option("--listen", required=True, help="unix:PATH, or HOST:PORT of a loopback address.")
@click.option("--rate", default=16000, type=click.Choice([0, 8000, 16000, 24000, 48000]), help="0: Opus.")
@click.option("--capacity", default=1000, type=click.IntRange(min=1), help="Sessions at a time.")
def main(listen: str, rate: int, capacity: int) -> None:
    """Echoes, as a speech backend in a process of its own."""
    pcm = pb.AudioFormat(encoding=pb.ENCODING_PCM_S16LE, rate_hz=rate)
    opus = pb.AudioFormat(encoding=pb.ENCODING_OPUS, rate_hz=48000)
    backend = EchoBackend(pcm if rate else opus)
    asyncio.run(serve(backend, listen, capacity, lambda: click.echo("event=ready", err=True)))


if __name__ == "__main__":
    main()
