# SPDX-License-Identifier: Apache-2.0
"""One process of a transceiver: its parts started, joined and stopped."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from multiprocessing.connection import Connection
from typing import Any

from aiohttp import web

from supervision.notify import Manager, Pulse
from telemetry import tracing
from telemetry.tracing import Tracing
from transceiver.admission import Admission
from transceiver.calls import Calls
from transceiver.ingresses import Ingresses, RegionsFile
from transceiver.library import prepare
from transceiver.listening import addresses, listening
from transceiver.log import event
from transceiver.media import Traffic
from transceiver.metrics import CallCollector, FleetCollector, SpeechCollector, Tally
from transceiver.mux import media_ports
from transceiver.peers import Peers
from transceiver.places import Places
from transceiver.relay_client import RelayClient
from transceiver.relay_target import RelayName, RelayTarget
from transceiver.relays import Relays
from transceiver.settings import Settings
from transceiver.speech.conversation import Client, Conversation
from transceiver.speech.echo import EchoConversation
from transceiver.speech.pool import Pool, pool_of
from transceiver.speech.remote import RemoteConversation, SpeechTally
from transceiver.stopping import Stop
from transceiver.whip import make_app
from transceiver.workers import READY, orphaned

RELAY_STOP_TIMEOUT = 2.0
STATUS_SECONDS = 2.0


async def serve(settings: Settings, manager: Manager, parent: Connection | None = None) -> None:
    """Runs until SIGTERM or SIGINT, and then as long as its calls may go on; a worker, also until its
    parent is gone. `manager` is told how it goes.

    Raises:
        LibraryError: aiortc is not as needed.
        RelayAwayError: the files for a backend's TLS cannot be read.
        OSError: it cannot listen.
        TracingError: traces are asked for and cannot be had.
    """
    name = settings.name + settings.suffix
    with tracing.opened(os.environ, "earshot-transceiver", version("earshot"), name) as traces:
        await _serve(settings, name, manager, parent, traces)


async def _serve(
    settings: Settings, name: str, manager: Manager, parent: Connection | None, traces: Tracing
) -> None:
    prepare()
    asyncio.get_running_loop().set_exception_handler(_unhandled)
    stop = Stop()
    stop.listen()
    if parent is not None:
        orphaned(parent, stop.at_once)
    traffic, tally, spoken = Traffic(), Tally(), SpeechTally()
    fleet = settings.fleet
    place = settings.place
    is_one = len(settings.relays) == 1 and isinstance(settings.relays[0], RelayTarget)
    places = None if is_one else Places(name)

    def client_of(target: RelayTarget) -> RelayClient:
        return RelayClient(
            target,
            name,
            f"earshot-transceiver/{version('earshot')}",
            snapshot=lambda: calls.registrations(),
            on_flow=lambda response: calls.flow_event(response),
            tracing=traces,
            routable=lambda: fleet.place([port.endpoint for port in ports]) if fleet else None,
            region=place.region,
            places=places,
        )

    relays = Relays(
        [client_of(one) for one in settings.relays if isinstance(one, RelayTarget)],
        [one for one in settings.relays if isinstance(one, RelayName)],
        client_of,
    )
    ingresses = Ingresses(RegionsFile(place.regions), relays, place.region, place.candidates)
    async with _backends(settings) as pool:
        with media_ports(settings.media_addresses, settings.media_port, traffic) as ports:

            def converse(client: Client) -> Conversation:
                if pool is None:
                    return EchoConversation(client)
                return RemoteConversation(client, name, pool, settings.policy, spoken)

            def missing() -> str | None:
                return None if pool is None or pool.available else "no speech backend is healthy"

            limits = settings.limits
            admission = Admission(limits.calls, limits.load, limits.setups, missing)
            mint = fleet.mint() if fleet else None
            peers = Peers(settings.name, settings.web.peers, limits.answer)
            calls = Calls(
                *(relays, ingresses, ports, converse, admission, limits),
                *(tally, traffic, settings.suffix, traces, mint),
            )
            tally.registry.register(CallCollector(tally, traffic, calls.states))
            tally.registry.register(FleetCollector(relays, ingresses))
            tally.registry.register(SpeechCollector(spoken, pool.backends if pool else (), admission))
            runner = await listening(
                make_app(calls, relays, ingresses, tally.registry, settings.web, peers),
                settings.http,
                settings.web,
            )
            try:
                attaching = asyncio.create_task(relays.run())
                pulse = Pulse(manager, frozenset({"calls", "load"}))
                watching = [
                    asyncio.create_task(calls.watch(lambda: pulse.beat("calls"))),
                    asyncio.create_task(admission.watch(lambda: pulse.beat("load"))),
                    asyncio.create_task(_tell(manager, relays, calls)),
                ]
                announcing = asyncio.create_task(_announce(relays, runner, parent))
                # With or without a relay: it waits for one, and attaches again to one that was away.
                manager.ready()
                asked = asyncio.create_task(stop.asked())
                await asyncio.wait([asked, attaching], return_when=asyncio.FIRST_COMPLETED)
                if attaching.done():  # by a defect of ours: nobody would register a call any more
                    attaching.result()
                manager.stopping()
                admission.close("this process is about to end")
                if settings.move and settings.drain:
                    watching.append(asyncio.create_task(calls.move_all(settings.drain)))
                await stop.drained(settings.drain, calls.count)
                event(logging.INFO, "stopping")
                announcing.cancel()
                for task in watching:
                    task.cancel()
                await runner.cleanup()
                await calls.end_all(settings.move)
                attaching.cancel()
                await asyncio.wait([attaching], timeout=RELAY_STOP_TIMEOUT)
            finally:
                await runner.cleanup()
    event(logging.INFO, "stopped")


@asynccontextmanager
async def _backends(settings: Settings) -> AsyncIterator[Pool | None]:
    """The speech backends, looked after; None for the echo."""
    if not settings.backends:
        yield None
        return
    async with pool_of(settings.backends) as pool:
        watching = asyncio.create_task(pool.watch())
        try:
            yield pool
        finally:
            watching.cancel()
            await asyncio.wait([watching])


async def _tell(manager: Manager, relays: Relays, calls: Calls) -> None:
    while True:
        attached, all_of_them = len(relays.attached), len(relays.clients)
        if all_of_them > 1:
            how = f"attached to {attached} of {all_of_them} relays"
            if standing_by := len(relays.serving) - attached:
                how += f", {standing_by} standing by"
        else:
            how = "attached to the relay" if attached else "not attached to the relay"
        manager.status(f"{how}, {calls.count()} calls")
        await asyncio.sleep(STATUS_SECONDS)


def _unhandled(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What nobody waited for: above all, aiortc's tasks that trip over what a client negotiated.

    The call is then ended by its set-up or silence timeout, and the others do not notice.
    """
    error = context.get("exception")
    detail = f"{type(error).__name__}: {error}" if error else context.get("message", "")
    event(logging.WARNING, "unhandled", detail=detail)


async def _announce(relays: Relays, runner: web.AppRunner, parent: Connection | None) -> None:
    await relays.wait_attached()
    if parent is None:
        event(logging.INFO, "ready", http=addresses(runner))
    else:
        event(logging.INFO, "worker_ready")
        parent.send_bytes(READY)
