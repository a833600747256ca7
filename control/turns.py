# SPDX-License-Identifier: Apache-2.0
"""Long work on the event loop a slice at a time, so that whoever has little to do waits for little.

One slice at a time, whoever it is of: fifty streams that register sessions would otherwise do fifty slices in
each round of the loop. And after each slice several rounds without one: a call takes some eight rounds to
come in, be carried out and go out again, and would wait for a slice in each of them. Slices that are
short count together: one operation alone does not wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# Rounds of the loop after so much work. With nobody else there each takes some 20 us.
ROUNDS = 6
WORK_SECONDS = 0.001


class Turns:
    """Whose slice it is, in the order in which they asked."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._worked = 0.0  # since others had their turn

    @asynccontextmanager
    async def slice(self) -> AsyncIterator[None]:
        """The block is one slice: a few milliseconds without an await."""
        async with self._lock:
            started = time.perf_counter()
            yield
            self._worked += time.perf_counter() - started
            if self._worked >= WORK_SECONDS:
                self._worked = 0.0
                for _ in range(ROUNDS):
                    await asyncio.sleep(0)
