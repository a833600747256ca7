# SPDX-License-Identifier: Apache-2.0
"""All relays that a transceiver is attached to, as its calls see them.

Every relay that is attached to is told of every session: of those that share a directory, one. A call waits
for those alone whose VIPs its client is told; what the others do, and whether they are there at all, does not
concern it. A relay that stands by knows what the one is told that it stands by for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence

from earshot.relay.v1 import relay_pb2 as pb

from transceiver.errors import RelayAwayError, RelayError
from transceiver.log import event
from transceiver.media import Endpoint
from transceiver.relay_client import RelayClient
from transceiver.relay_target import RelayName, RelayTarget

# Seconds that a relay may take longer than another one that the call would do with.
LAG = 0.5
LOOK_UP_SECONDS = 10.0

_Asked = dict[RelayClient, asyncio.Task[None]]


class Relays:
    """One control stream to each; they come and go by themselves."""

    def __init__(
        self,
        clients: Sequence[RelayClient],
        names: Sequence[RelayName] = (),
        client_of: Callable[[RelayTarget], RelayClient] | None = None,
    ) -> None:
        """`clients`: those that are always there. `names`: each address is one, made by `client_of`."""
        self._fixed = tuple(clients)
        self._names = names
        self._client_of = client_of
        self._found: dict[RelayTarget, RelayClient] = {}
        self._any = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def clients(self) -> Sequence[RelayClient]:
        """All, in the order in which they were named, or found."""
        return [*self._fixed, *self._found.values()]

    @property
    def attached(self) -> Sequence[RelayClient]:
        """Those that take operations now."""
        return [client for client in self.clients if client.attached]

    @property
    def serving(self) -> Sequence[RelayClient]:
        """Those by which clients can reach a call: attached to, or standing by for one that is."""
        attached = self.attached
        return [one for one in self.clients if one.attached or one.stands_for in attached]

    async def wait_attached(self) -> None:
        """Returns when one is, or has been; the caller sets the deadline."""
        await self._any.wait()

    async def settle(self, seconds: float) -> None:
        """While it goes from one relay to another: returns when it is there, or after so long."""
        approaching = [one for one in self.clients if one.approaching]
        if self.attached or not approaching:
            return
        waiting = [asyncio.create_task(one.wait_attached()) for one in approaching]
        try:
            await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()

    async def run(self) -> None:
        """Keeps all attached; runs until cancelled."""
        async with asyncio.TaskGroup() as running:
            for client in self._fixed:
                running.create_task(self._attach(client))
            for name in self._names:
                running.create_task(self._follow(name))

    async def _attach(self, client: RelayClient) -> None:
        async with asyncio.TaskGroup() as running:
            running.create_task(client.run())
            await client.wait_attached()
            self._any.set()

    async def _follow(self, name: RelayName) -> None:
        """Attaches to the relays that a name stands for, and lets go of those that are gone in both ways."""
        assert self._client_of is not None, "a name without a way to make clients"
        known: dict[RelayTarget, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as running:
            while True:
                targets = await name.look_up()
                for target in targets:
                    if target not in known:
                        self._found[target] = self._client_of(target)
                        known[target] = running.create_task(self._attach(self._found[target]))
                # No answer is no reason to leave, nor is one that misses a relay which is there.
                for target in [gone for gone in known if targets and gone not in targets]:
                    if self._found[target] not in self.serving:
                        known.pop(target).cancel()
                        del self._found[target]
                await asyncio.sleep(LOOK_UP_SECONDS)

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
        behind = [task for client, task in asked.items() if not self._reach(client).isdisjoint(vips)]
        await _settled(behind, LAG)
        if not any(_took(task) for task in behind):
            await _settled([task for task in asked.values() if task not in behind], 0.0)
        if not any(map(_took, asked.values())):
            raise _fault(behind or list(asked.values()))
        return [vip for vip in vips if self._leads(vip, asked)]

    async def unregister(self, session_id: str, timeout: float) -> None:
        """Tells all that a session is over. Raises `RelayError` if none has heard it."""
        results = await asyncio.gather(
            *(client.unregister(session_id, timeout) for client in self.clients), return_exceptions=True
        )
        errors = [error for error in results if isinstance(error, BaseException)]
        if errors and len(errors) == len(results):
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

    def _reach(self, client: RelayClient) -> frozenset[Endpoint]:
        """The VIPs that lead to what a relay knows: its own, and those of relays that stand by for it."""
        return client.vips_known.union(*(one.vips_known for one in self.clients if one.stands_for is client))

    def _leads(self, vip: Endpoint, asked: _Asked) -> bool:
        """Whether a relay behind it took the session; a VIP that is nobody's is believed."""
        behind = [task for client, task in asked.items() if vip in self._reach(client)]
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
