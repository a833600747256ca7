# SPDX-License-Identifier: Apache-2.0
"""Relays of a group, their store and the network between them, in simulated time.

The leases and promises are those of earshotd. What is simulated is what they stand on: the store with its
three scripts (tests/fleet/test_leases.py holds them against a real one), datagrams, the kernel's clock, and
addresses on links. A relay whose daemon is frozen gets no answers, and no datagrams, before it goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from ipaddress import ip_address
from random import Random
from types import SimpleNamespace
from typing import Any, TypeVar, cast

from control.addresses import IPAddress
from control.datapath import Datapath
from control.directory.errors import AwayError, SealError
from control.directory.link import Link
from control.directory.seal import INSTANCE_BYTES, Opened
from control.replication import lease
from control.replication.announce import LIFE_SECONDS, Announcer
from control.replication.lease import Leases

RELAYS = 3
RATES = (1.0, 0.96, 1.04)  # of their clocks
START = 1000.0

_T = TypeVar("_T")


class _NoFiles(selectors.SelectSelector):
    """Nothing is waited for but time, which passes at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "nothing will ever happen"
        self.now += max(0.0, timeout)
        return []


class SimulatedLoop(asyncio.SelectorEventLoop):
    """asyncio, as fast as it goes."""

    def __init__(self) -> None:
        self._waiting = _NoFiles()
        super().__init__(self._waiting)

    def time(self) -> float:
        return self._waiting.now


def simulate(made: Coroutine[Any, Any, _T]) -> _T:
    """Runs it in simulated time."""
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(made)


def address_of(number: int) -> IPAddress:
    return ip_address(f"10.20.0.{number + 1}")


class Store:
    """What Redis does of what leases need."""

    def __init__(self) -> None:
        self.values: dict[str, tuple[bytes, float]] = {}
        self.is_running = asyncio.Event()  # not: it hangs
        self.is_running.set()
        self.is_there = True
        self.delay = 0.001
        self._life = 0

    def wipe(self) -> None:
        self.values.clear()

    def kill(self) -> None:
        """What waits to be carried out is lost."""
        self.is_there = False
        self._life += 1

    async def carry_out(self, script: str, keys: list[str], args: list[Any]) -> list[bytes]:
        """When its turn comes, whether or not somebody still waits. Raises OSError."""
        life = self._life
        await asyncio.sleep(self.delay)
        await self.is_running.wait()
        if not self.is_there or life != self._life:
            raise OSError("away")
        given = [str(one).encode() if isinstance(one, int) else one for one in args]
        return {lease.HOLD: self._hold, lease.WATCH: self._watch, lease.LEAVE: self._leave}[script](
            keys, given
        )

    def get(self, key: str) -> bytes | None:
        value, until = self.values.get(key, (None, 0.0))
        return value if until > asyncio.get_running_loop().time() else None

    def _set(self, key: str, value: bytes, milliseconds: bytes | int) -> None:
        self.values[key] = value, asyncio.get_running_loop().time() + int(milliseconds) / 1000

    def _hold(self, keys: list[str], args: list[bytes]) -> list[bytes]:
        me, life = args
        holders = []
        for key in keys:
            holder = self.get(key)
            if holder in (None, me):
                self._set(key, me, life)
                self.values.pop(key + ":back", None)
                holder = me
            else:
                self._set(key + ":back", me, 5 * int(life))
            holders.append(holder or b"")
        return holders

    def _watch(self, keys: list[str], args: list[bytes]) -> list[bytes]:
        *keys, thread = keys
        me, life, written, turn, *wishes = args
        is_whole = self.get(thread) == written
        self._set(thread, turn, life)
        holders = []
        for key, wish in zip(keys, wishes, strict=True):
            holder, owner = self.get(key), self.get(key + ":back")
            is_free = holder in (None, me)
            if owner and is_free:
                self._set(key, owner, life)
                holder = owner
            elif is_free and (wish == b"2" or (wish == b"1" and is_whole)):
                self._set(key, me, life)
                holder = me
            elif holder == me:
                del self.values[key]
                holder = None
            holders.append(holder or b"")
        return [*holders, b"1" if is_whole else b"0"]

    def _leave(self, keys: list[str], args: list[bytes]) -> list[bytes]:
        for key in keys:
            if self.get(key) == args[0]:
                del self.values[key]
        return []


class Relay:
    """A host, whose link and kernel outlive its daemon."""

    def __init__(self, world: World, number: int) -> None:
        self.world, self.number = world, number
        self.address = address_of(number)
        self.until = 0  # in the kernel
        self.link: dict[IPAddress, float] = {}  # others' addresses on it: until when
        self.is_cut_off = False  # from the store
        self.is_fit = True
        self.awake = asyncio.Event()
        self.awake.set()
        self.leases: Leases | None = None
        self.daemon: asyncio.Task[None] | None = None
        self.is_by_promise = False
        self._taken_back: set[asyncio.Task[None]] = set()

    def now(self) -> int:
        rate = RATES[self.number % len(RATES)]
        return int((asyncio.get_running_loop().time() * rate + 50 * self.number) * 1e9)

    def binds(self) -> bool:
        return self.now() < self.until

    def answers_for(self, address: IPAddress) -> bool:
        return self.link.get(address, 0.0) > asyncio.get_running_loop().time()

    # ---- the daemon ------------------------------------------------------------------------

    def start(self) -> None:
        if self.daemon is None:
            self.awake.set()
            self.daemon = asyncio.create_task(self._run())

    async def kill(self) -> None:
        if self.daemon is not None:
            self.daemon.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.daemon
            self.daemon = self.leases = None

    async def _run(self) -> None:
        others = {number: address_of(number) for number in range(RELAYS) if number != self.number}
        datapath = SimpleNamespace(
            own_relays={self.number: self.address}, foreign_relays=others, lease=_Lease(self)
        )
        instance = self.world.random.randbytes(INSTANCE_BYTES)
        self.leases = made = Leases(
            cast(Datapath, datapath),
            cast(Link, _Link(self)),
            instance,
            cast(Announcer, self),
            lambda: self.is_fit,
            self.now,
        )
        made.way = _Way(self, instance)
        async with made.running():
            await asyncio.Event().wait()

    async def hear(self, opened: Opened) -> bytes | None:
        await self.awake.wait()
        if self.leases is None:
            return None
        self.is_by_promise = True
        try:
            return self.leases.hear(opened)
        except SealError:
            return None
        finally:
            self.is_by_promise = False

    # ---- its link, as an announcer ---------------------------------------------------------

    async def link_of(self, own: object, version: int) -> tuple[int, str, bytes]:
        await asyncio.sleep(self.world.link_delay)
        await self.awake.wait()
        return 1, "fabric", bytes(6)

    async def put(self, address: IPAddress, ifindex: int) -> None:
        await asyncio.sleep(self.world.link_delay)
        await self.awake.wait()
        if not self.answers_for(address):
            self.world.taken(self, address)
        self.link[address] = asyncio.get_running_loop().time() + LIFE_SECONDS

    async def drop(self, address: IPAddress, ifindex: int) -> None:
        await asyncio.sleep(self.world.link_delay)
        self.link.pop(address, None)

    def announce(self, address: IPAddress, name: str, mac: bytes) -> None:
        pass


class _Lease:
    """The kernel's."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def __setitem__(self, name: str, until: int) -> None:
        self._relay.until = until
        if self._relay.is_by_promise and self._relay.binds():
            self._relay.world.promised(self._relay)


class _Link:
    """A relay's way to the store."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self.redis = self

    def register_script(self, script: str) -> Callable[..., Awaitable[Any]]:
        store = self._relay.world.store

        async def run(keys: list[str], args: list[Any]) -> list[bytes]:
            if self._relay.is_cut_off:
                raise OSError("cut off")
            carried_out = asyncio.ensure_future(store.carry_out(script, keys, args))
            carried_out.add_done_callback(lambda done: done.cancelled() or done.exception())
            answer = await asyncio.shield(carried_out)
            await asyncio.sleep(store.delay)
            await self._relay.awake.wait()
            if self._relay.is_cut_off:
                raise OSError("cut off")
            return answer

        return run

    async def call(self, command: Callable[[Any], Awaitable[_T]], seconds: float = 3.0) -> _T:
        try:
            async with asyncio.timeout(seconds):
                return await command(self)
        except OSError as error:  # TimeoutError is one
            await asyncio.sleep(0.001)
            await self._relay.awake.wait()
            raise AwayError("away") from error


class _Way:
    """A relay's way to the others."""

    def __init__(self, relay: Relay, instance: bytes) -> None:
        self._relay, self._instance, self._sealed = relay, instance, 0

    def send(self, address: IPAddress, payload: bytes) -> None:
        if self._relay.awake.is_set():
            self._relay.world.send(self._relay, address, self.seal(payload))

    def seal(self, payload: bytes) -> Opened:
        self._sealed += 1
        return Opened(payload, self._instance, self._sealed)


class World:
    """All of it.

    Attributes:
        cut: pairs of relays, the first of which cannot send to the second.
        faults: what must not be, and was.
    """

    def __init__(self, seed: int = 0) -> None:
        self.random = Random(seed)
        self.store = Store()
        self.relays = [Relay(self, number) for number in range(RELAYS)]
        self.cut: set[tuple[int, int]] = set()
        self.delay, self.link_delay = 0.001, 0.001
        self.loss = 0.0
        self.faults: list[str] = []
        self.takes: list[tuple[float, int, IPAddress]] = []
        self.sent: list[tuple[int, Opened]] = []  # what somebody may send again
        self._deliveries: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> Any:
        for relay in self.relays:
            relay.start()
        try:
            yield
        finally:
            for relay in self.relays:
                relay.awake.set()
                await relay.kill()
            for delivery in self._deliveries:
                delivery.cancel()

    # ---- what must not be ------------------------------------------------------------------

    def taken(self, by: Relay, address: IPAddress) -> None:
        """A relay begins to answer for another's address."""
        now = asyncio.get_running_loop().time()
        self.takes.append((now, by.number, address))
        if any(one.address == address and one.binds() for one in self.relays):
            self.faults.append(f"{now:.3f}: relay {by.number} takes {address}, whose relay still binds at it")

    def promised(self, relay: Relay) -> None:
        """A relay binds at its address because the others have promised that it may."""
        for other in self.relays:
            if other.answers_for(relay.address):
                now = asyncio.get_running_loop().time()
                self.faults.append(
                    f"{now:.3f}: relay {relay.number} binds, though {other.number} answers for it"
                )

    # ---- datagrams -------------------------------------------------------------------------

    def send(self, sender: Relay, address: IPAddress, opened: Opened) -> None:
        for receiver in self.relays:
            if receiver.address == address:
                self.sent.append((receiver.number, opened))
                self._deliver(sender.number, receiver.number, opened)

    def replay(self, which: int) -> None:
        if self.sent:
            receiver, opened = self.sent[which % len(self.sent)]
            self._deliver(None, receiver, opened)

    def _deliver(self, sender: int | None, receiver: int, opened: Opened) -> None:
        if (sender, receiver) in self.cut or self.random.random() < self.loss:
            return
        task = asyncio.create_task(self._arrive(sender, receiver, opened))
        self._deliveries.add(task)
        task.add_done_callback(self._deliveries.discard)

    async def _arrive(self, sender: int | None, receiver: int, opened: Opened) -> None:
        await asyncio.sleep(self.delay * self.random.uniform(0.5, 1.5))
        relay = self.relays[receiver]
        answer = await relay.hear(opened)
        if answer is None or sender is None or (receiver, sender) in self.cut or relay.leases is None:
            return
        way = relay.leases.way
        assert isinstance(way, _Way)
        sealed = way.seal(answer)
        await asyncio.sleep(self.delay * self.random.uniform(0.5, 1.5))
        self.sent.append((sender, sealed))
        await self.relays[sender].hear(sealed)


def each(world: World) -> Iterator[Mapping[str, object]]:
    """What the relays are at, for whoever reads a failure."""
    for relay in world.relays:
        yield {"relay": relay.number, "binds": relay.binds(), "link": sorted(map(str, relay.link))}
