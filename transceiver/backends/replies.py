# SPDX-License-Identifier: Apache-2.0
"""What the agent knows: phrases, and what it answers. It understands nothing, and says so."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

ABOUT = (
    "A small demonstration agent that runs without a network: webrtcvad hears when you speak, pocketsphinx "
    "recognises a handful of phrases, espeak-ng says the answers. There is no language model in it, and no "
    "understanding."
)
GREETING = "Hello. I am a small demonstration program. I know only a few phrases. Ask me: what can you do."
UNKNOWN = "I heard you, but it was none of the phrases that I know. Ask me: what can you do."
GOODBYE = "goodbye"  # ends the session

_STORY = (
    "A packet came to a relay and asked for the way. The relay looked at its user name, and said: "
    "I know who waits for you. It wrote a new address on it and sent it on. It did so fifty times a second, "
    "for as long as the call was, and never once stopped to think. "
    "You can interrupt this story whenever you like. "
    "Nobody has ever heard it to its end, and so nobody knows how it ends."
)


def _time() -> str:
    now = datetime.now()
    return f"It is {now.hour} {now.minute:02d} where I run."


def _abilities() -> str:
    return f"You can say: {', '.join(PHRASES)}."


_ANSWERS: dict[str, str | Callable[[], str]] = {
    "hello": "Hello to you.",
    "what can you do": _abilities,
    "what time is it": _time,
    "tell me a story": _STORY,
    "banana": "Bananas are yellow.",
    GOODBYE: "Goodbye.",
}
PHRASES = tuple(_ANSWERS)


def reply_to(phrase: str) -> str:
    """The answer to a phrase, or to something else."""
    answer = _ANSWERS.get(phrase, UNKNOWN)
    return answer if isinstance(answer, str) else answer()
