# SPDX-License-Identifier: Apache-2.0
"""Words by pocketsphinx: a small grammar of phrases that sound unlike each other. It knows nothing else.

A decoder takes about a third of a second to make and serves one utterance at a time, so there are a few, and
whoever needs one waits for it. The work is done in threads: pocketsphinx lets go of the interpreter.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pocketsphinx import Decoder, get_model_path

RATE = 16000  # of the model that comes with pocketsphinx


class Recogniser:
    """Recognises one of `phrases` (words of the model's dictionary, lower case), or nothing."""

    def __init__(self, phrases: Sequence[str], decoders: int) -> None:
        grammar = f"#JSGF V1.0;\ngrammar phrases;\npublic <phrase> = {' | '.join(phrases)};\n"
        words = {word for phrase in phrases for word in phrase.split()}
        self._free: asyncio.Queue[Decoder] = asyncio.Queue()
        with tempfile.TemporaryDirectory() as folder:
            dictionary = Path(folder) / "dictionary"
            dictionary.write_text(_pronunciations(words))
            for _ in range(decoders):
                # bestpath is of no use with a grammar, and says so at each utterance.
                decoder = Decoder(
                    samprate=RATE, dict=str(dictionary), lm=None, bestpath=False, loglevel="FATAL"
                )
                decoder.add_jsgf_string("phrases", grammar)
                decoder.activate_search("phrases")
                self._free.put_nowait(decoder)

    async def recognise(self, sound: bytes) -> str:
        """The phrase in samples of `RATE`; empty if there is none of them."""
        decoder = await self._free.get()
        try:
            return await asyncio.to_thread(_decode, decoder, sound)
        finally:
            self._free.put_nowait(decoder)


def _decode(decoder: Decoder, sound: bytes) -> str:
    decoder.start_utt()
    decoder.process_raw(sound, full_utt=True)
    decoder.end_utt()
    found = decoder.hyp()
    return found.hypstr.strip() if found else ""


def _pronunciations(words: set[str]) -> str:
    """The lines of the model's dictionary for these words; loading all 134,000 would take a second."""
    wanted = re.compile(rf"(?:{'|'.join(map(re.escape, sorted(words)))})(?:\(\d+\))? ")
    lines = Path(get_model_path("en-us/cmudict-en-us.dict")).read_text().splitlines()
    found = [line for line in lines if wanted.match(line)]
    missing = words.difference(line.partition(" ")[0] for line in found)
    if missing:
        raise ValueError(f"not in the dictionary: {', '.join(sorted(missing))}")
    return "\n".join(found) + "\n"
