# SPDX-License-Identifier: Apache-2.0
"""How a process is asked to end, and how long its calls may still go on then.

SIGTERM or SIGINT asks. Who was told to drain takes no new calls from then on, and ends when the last call
has ended or its time is over. A second signal is for somebody who does not want to wait for that.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from contextlib import suppress

from transceiver.log import event

LOOK_SECONDS = 0.2


class Stop:
    """The wish to end, and the wish to end at once."""

    def __init__(self, hurry: Callable[[], None] = lambda: None) -> None:
        """`hurry` is called at the second signal."""
        self._asked = asyncio.Event()
        self._at_once = asyncio.Event()
        self._hurry = hurry

    def listen(self) -> None:
        """Takes the signals of this process from now on, in the loop that runs."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._signalled)

    def at_once(self) -> None:
        """As two signals would."""
        self._asked.set()
        self._at_once.set()

    async def asked(self) -> None:
        """Returns when it has to end."""
        await self._asked.wait()

    async def drained(self, seconds: float, calls: Callable[[], int]) -> None:
        """Returns when no call is left, or their time is over, or nobody wants to wait any longer."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + seconds
        if seconds and calls():
            event(logging.INFO, "draining", calls=calls(), seconds=seconds)
        while calls() and clock() < deadline and not self._at_once.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._at_once.wait()

    def _signalled(self) -> None:
        if self._asked.is_set():
            self._at_once.set()
            self._hurry()
        self._asked.set()
