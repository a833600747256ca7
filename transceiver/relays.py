# SPDX-License-Identifier: Apache-2.0
"""All relays that a transceiver is attached to, as its calls see them.

Every relay is told of every session. A call waits for those alone whose VIPs its client is told; what the
others do, and whether they are there at all, does not concern it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence

from earshot.relay.v1 import relay_pb2 as pb

from transceiver.errors import RelayAwayError, RelayError
from transceiver.log import event
from transceiver.media import Endpoint
from transceiver.relay_client import RelayClient

# Seconds that a relay may take longer than another one that the call would do with.
LAG = 0.5

_Asked = dict[RelayClient, asyncio.Task[None]]


class Relays:
    """One control stream to each; they come and go by themselves."""

    def __init__(self, clients: Sequence[RelayClient]) -> None:
        self._clients = tuple(clients)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def clients(self) -> Sequence[RelayClient]:
        """All, in the order in which they were named."""
        return self._clients

    @property
    def attached(self) -> Sequence[RelayClient]:
        """Those that take operations now."""
        return [client for client in self._clients if client.attached]

    async def wait_attached(self) -> None:
        """Returns when one is; the caller sets the deadline."""
        waiting = [asyncio.create_task(client.wait_attached()) for client in self._clients]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()

    async def run(self) -> None:
        """Keeps all attached; runs until cancelled."""
        async with asyncio.TaskGroup() as attaching:
            for client in self._clients:
                attaching.create_task(client.run())

    async def register(
        self, session: pb.Session, timeout: float, traceparent: str = "", vips: Sequence[Endpoint] = ()
    ) -> list[Endpoint]:
        """Tells all of a session; returns those of `vips` by which it can be reached now.

        It waits for the relays behind these, and for any one if they are nobody's: a VIP of a relay that
        this transceiver is not attached to is believed to be right.

        Raises:
            RelayAwayError: none is there, or none answered.
            RefusedError: one refused, and none took it.
        """
        asked = self._ask(session, timeout, traceparent)
        behind = [task for client, task in asked.items() if not client.vips_known.isdisjoint(vips)]
        await _settled(behind, LAG)
        if not any(_took(task) for task in behind):
            await _settled([task for task in asked.values() if task not in behind], 0.0)
        if not any(map(_took, asked.values())):
            raise _fault(behind or list(asked.values()))
        return [vip for vip in vips if self._leads(vip, asked)]

    async def unregister(self, session_id: str, timeout: float) -> None:
        """Tells all that a session is over. Raises `RelayError` if none has heard it."""
        results = await asyncio.gather(
            *(client.unregister(session_id, timeout) for client in self._clients), return_exceptions=True
        )
        errors = [error for error in results if isinstance(error, BaseException)]
        if len(errors) == len(results):
            raise errors[0]

    def _ask(self, session: pb.Session, timeout: float, traceparent: str) -> _Asked:
        asked = {
            client: asyncio.create_task(client.register(session, timeout, traceparent))
            for client in self.attached
        }
        if not asked:
            raise RelayAwayError("not attached to a relay")
        for client, task in asked.items():
            self._tasks.add(task)
            task.add_done_callback(lambda done, client=client: self._answered(client, session, done))  # type: ignore[misc]
        return asked

    def _answered(self, client: RelayClient, session: pb.Session, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            event(
                logging.INFO,
                "not_registered",
                call=session.session_id,
                relay=client.target,
                detail=str(error),
            )

    def _leads(self, vip: Endpoint, asked: _Asked) -> bool:
        """Whether a relay behind it took the session; a VIP that is nobody's is believed."""
        behind = [task for client, task in asked.items() if vip in client.vips_known]
        return not behind or any(map(_took, behind))


async def _settled(tasks: Collection[asyncio.Task[None]], lag: float) -> None:
    """Returns when all have ended, or `lag` seconds after one was successful. The tasks go on."""
    clock = asyncio.get_running_loop().time
    until: float | None = None
    waiting = set(tasks)
    while waiting and (until is None or clock() < until):
        left = None if until is None else until - clock()
        ended, waiting = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if until is None and any(map(_took, ended)):
            until = clock() + lag


def _took(task: asyncio.Task[None]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


def _fault(tasks: Sequence[asyncio.Task[None]]) -> RelayError:
    """Why the first of them failed."""
    for task in tasks:
        error = task.exception() if task.done() and not task.cancelled() else None
        if isinstance(error, RelayError):
            return error
    return RelayAwayError("no relay has answered")
