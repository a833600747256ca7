# SPDX-License-Identifier: Apache-2.0
"""Worker processes: started, watched, and started again when they die.

Each is a process of its own (spawned, not forked: gRPC and asyncio do not survive a fork), and holds one end
of a pipe. It says there that it is ready; and since either end closes when its process dies, however it
dies, the other learns of it from there.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import random
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from transceiver.errors import WorkerError
from transceiver.log import event

BACKOFF_FIRST = 0.1
BACKOFF_MOST = 5.0  # seconds; a worker that lived for longer is started again at once
STOP_TIMEOUT = 15.0  # a worker ends its calls within less
READY = b"ready"

Entry = Callable[[Connection], None]

_spawn = multiprocessing.get_context("spawn")


class Workers:
    """One process for each entry, which must be picklable; it gets its end of the pipe."""

    def __init__(self, entries: Sequence[Entry], drain: float = 0.0) -> None:
        """`drain`: seconds that a worker may take for its calls before it ends them."""
        self._entries = entries
        self._stop_timeout = drain + STOP_TIMEOUT
        self._processes: dict[int, SpawnProcess] = {}
        self._ready: set[int] = set()  # those that have been, at any time
        self._all_ready = asyncio.Event()
        self.restarts = 0

    @property
    def alive(self) -> int:
        """How many there are now."""
        return len(self._processes)

    async def wait_ready(self) -> None:
        """Returns when each has been ready once; the caller sets the deadline."""
        await self._all_ready.wait()

    async def run(self) -> None:
        """Keeps them running until cancelled, then stops them.

        Raises:
            WorkerError: one of them gave up before it had ever been ready.
        """
        try:
            async with asyncio.TaskGroup() as keepers:
                for number in range(len(self._entries)):
                    keepers.create_task(self._keep(number))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    def hurry(self) -> None:
        """Asks them once more to end: who drains does not wait for its calls any longer."""
        for process in self._processes.values():
            process.terminate()

    async def _keep(self, number: int) -> None:
        backoff = BACKOFF_FIRST
        clock = asyncio.get_running_loop().time
        while True:
            started = clock()
            code = await self._run(number)
            if code == 1 and number not in self._ready:
                raise WorkerError(f"worker {number} could not start; its log says why")
            event(logging.WARNING, "worker_died", number=number, exit_code=code)
            if clock() - started > BACKOFF_MOST:
                backoff = BACKOFF_FIRST
            await asyncio.sleep(backoff * random.uniform(0.5, 1.0))
            backoff = min(2 * backoff, BACKOFF_MOST)
            self.restarts += 1

    async def _run(self, number: int) -> int | None:
        """Starts a worker and returns its exit code, None if it did not start. Stops it when cancelled."""
        ours, theirs = _spawn.Pipe()
        process = _spawn.Process(target=self._entries[number], args=(theirs,), name=f"worker-{number}")
        with ours:
            with theirs:
                try:
                    process.start()
                except OSError as error:  # no memory, or no process more: there may be later
                    event(logging.WARNING, "worker_not_started", number=number, detail=str(error))
                    return None
            event(logging.INFO, "worker_started", number=number, pid=process.pid)
            self._processes[number] = process
            try:
                await self._hear(number, ours)
            except asyncio.CancelledError:
                process.terminate()
                raise
            finally:
                try:
                    await _reap(process, self._stop_timeout)
                finally:
                    del self._processes[number]
        return process.exitcode

    async def _hear(self, number: int, pipe: Connection) -> None:
        """Returns when the worker's end is closed."""
        while await _received(pipe):
            self._ready.add(number)
            if len(self._ready) == len(self._entries):
                self._all_ready.set()


def orphaned(pipe: Connection, then: Callable[[], None]) -> None:
    """In a worker: calls `then` when the parent is gone."""
    loop = asyncio.get_running_loop()

    def closed() -> None:
        loop.remove_reader(pipe.fileno())
        then()

    loop.add_reader(pipe.fileno(), closed)


async def _received(pipe: Connection) -> bool:
    """Takes one message; False if the other end is closed."""
    await _readable(pipe.fileno())
    try:
        pipe.recv_bytes()
    except (EOFError, ConnectionResetError):
        return False
    return True


async def _reap(process: SpawnProcess, timeout: float) -> None:
    """Waits for a process to end, and ends it when it does not."""
    try:
        async with asyncio.timeout(timeout):
            await _readable(process.sentinel)
    except TimeoutError:
        process.kill()
        await _readable(process.sentinel)
    process.join()


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)
