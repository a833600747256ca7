# SPDX-License-Identifier: Apache-2.0
"""When the interpreter looks for cyclic garbage.

A full collection looks at every object there is, while everybody waits: some 35 ms with 50,000 sessions. By
itself the interpreter starts one whenever the number of objects has grown by a quarter, so just
in the middle of a reconnect storm. Sessions are in no cycles and need none of it: young garbage is collected
as ever, all of it every few minutes, and what was made by imports is never looked at again.
"""

from __future__ import annotations

import asyncio
import gc

COLLECT_SECONDS = 600.0
_NEVER = 1 << 30


def settle() -> None:
    """At start, when everything is imported: from here on full collections are ours to start."""
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _NEVER)


async def collect_now_and_then() -> None:
    """Runs until it is cancelled."""
    while True:
        await asyncio.sleep(COLLECT_SECONDS)
        gc.collect()
