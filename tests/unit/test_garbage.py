# SPDX-License-Identifier: Apache-2.0
"""What the daemon leaves to the interpreter's garbage collector. In a process of its own: it is global."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import asyncio, gc, weakref
from control import garbage

class Node:
    pass

def cycle():
    node = Node()
    node.itself = node
    return node

async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)

async def main():
    ended = 0
    garbage.FREEZE_SECONDS = 0.01
    garbage.pause()
    old = cycle()  # as what a former daemon left behind
    garbage.settle()
    assert gc.isenabled() and gc.get_freeze_count() > 0
    task = asyncio.create_task(garbage.collect_now_and_then(lambda: ended))

    newer = cycle()
    await until(lambda: all(one is not newer for one in gc.get_objects()))  # it is looked at no more
    young = weakref.ref(cycle())
    await until(lambda: young() is None)

    old, newer = weakref.ref(old), weakref.ref(newer)
    for _ in range(10):
        await asyncio.sleep(0.01)
    assert old() is not None and newer() is not None
    ended = garbage.FULL_STREAMS
    await until(lambda: old() is None and newer() is None)
    await until(lambda: gc.get_freeze_count() > 0)
    task.cancel()

asyncio.run(main())
print("done")
"""


def test_what_is_frozen_and_when_it_is_looked_at_again() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"
