# SPDX-License-Identifier: Apache-2.0
"""When the interpreter looks for cyclic garbage, and at what.

A full collection looks at every object there is, while everybody waits: some 0.25 s with 500,000 sessions. By
itself the interpreter starts one whenever the number of objects has grown by a quarter, so just
in the middle of a reconnect storm. Sessions are in no cycles and need none of it.

So young garbage is collected as ever, and every few seconds what has outlived that is put where no collection
looks (gc.freeze). From there it goes as most things do, when nothing refers to it any more; only what
is in a cycle by then stays. That is what is left of streams, if anything: after a thousand of them, and
once a day, everything is looked at after all.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable

FREEZE_SECONDS = 5.0
FULL_SECONDS = 86_400.0
FULL_STREAMS = 1000
# Collections of the middle generation until a full one, each after 7,000 objects more: more than come to
# be between two freezes.
_MIDDLE_COLLECTIONS = 1000


def pause() -> None:
    """At start, when everything is imported: what is made until `settle` is looked at by no collection."""
    gc.collect()
    gc.disable()


def settle() -> None:
    """When the daemon is ready."""
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _MIDDLE_COLLECTIONS)
    gc.freeze()
    gc.enable()


async def collect_now_and_then(ended_streams: Callable[[], int]) -> None:
    """Runs until it is cancelled. `ended_streams`: how many there have been so far."""
    looked_at, when = ended_streams(), time.monotonic()
    while True:
        await asyncio.sleep(FREEZE_SECONDS)
        if ended_streams() - looked_at >= FULL_STREAMS or time.monotonic() - when >= FULL_SECONDS:
            looked_at, when = ended_streams(), time.monotonic()
            gc.unfreeze()
            gc.collect()
        gc.collect(1)
        gc.freeze()
