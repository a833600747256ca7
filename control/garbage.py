# SPDX-License-Identifier: Apache-2.0
"""When the interpreter looks for cyclic garbage.

A full collection looks at every object there is, while everybody waits: some 35 ms with 50,000 sessions. By
itself the interpreter starts one whenever the number of objects has grown by a quarter, so just
in the middle of a reconnect storm. Sessions are in no cycles and need none of it. So young garbage is
collected as ever, and all of it every few minutes, or sooner where a great deal has been allocated, which
bounds what anybody can make us waste; what imports have made is never looked at again.
"""

from __future__ import annotations

import asyncio
import gc

COLLECT_SECONDS = 300.0
# Collections of the middle generation between full ones, each after 7,000 objects more: some ten times as
# many as it takes to register 50,000 sessions.
_MIDDLE_COLLECTIONS = 300


def settle() -> None:
    """At start, when everything is imported."""
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _MIDDLE_COLLECTIONS)


async def collect_now_and_then() -> None:
    """Runs until it is cancelled."""
    while True:
        await asyncio.sleep(COLLECT_SECONDS)
        gc.collect()
