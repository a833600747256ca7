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
from transceiver.library import prepare
from transceiver.listening import addresses, listening
from transceiver.log import event
from transceiver.media import Traffic
from transceiver.metrics import CallCollector, SpeechCollector, Tally
from transceiver.mux import media_ports
from transceiver.relay_client import RelayClient
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
    relay = RelayClient(
        settings.relay,
        name,
        f"earshot-transceiver/{version('earshot')}",
        snapshot=lambda: calls.registrations(),
        on_flow=lambda response: calls.flow_event(response),
        tracing=traces,
        routable=lambda: fleet.place([port.endpoint for port in ports]) if fleet else None,
    )
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
            calls = Calls(
                relay, ports, converse, admission, limits, tally, traffic, settings.suffix, traces, mint
            )
            tally.registry.register(CallCollector(tally, traffic, calls.states, lambda: relay.attached))
            tally.registry.register(SpeechCollector(spoken, pool.backends if pool else (), admission))
            runner = await listening(
                make_app(calls, relay, tally.registry, settings.web), settings.http, settings.web
            )
            try:
                attaching = asyncio.create_task(relay.run())
                pulse = Pulse(manager, frozenset({"calls", "load"}))
                watching = [
                    asyncio.create_task(calls.watch(lambda: pulse.beat("calls"))),
                    asyncio.create_task(admission.watch(lambda: pulse.beat("load"))),
                    asyncio.create_task(_tell(manager, relay, calls)),
                ]
                announcing = asyncio.create_task(_announce(relay, runner, parent))
                # With or without a relay: it waits for one, and attaches again to one that was away.
                manager.ready()
                await stop.asked()
                manager.stopping()
                admission.close("this process is about to end")
                await stop.drained(settings.drain, calls.count)
                event(logging.INFO, "stopping")
                announcing.cancel()
                for task in watching:
                    task.cancel()
                await runner.cleanup()
                await calls.end_all()
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


async def _tell(manager: Manager, relay: RelayClient, calls: Calls) -> None:
    while True:
        relay_is = "attached to the relay" if relay.attached else "not attached to the relay"
        manager.status(f"{relay_is}, {calls.count()} calls")
        await asyncio.sleep(STATUS_SECONDS)


def _unhandled(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What nobody waited for: above all, aiortc's tasks that trip over what a client negotiated.

    The call is then ended by its set-up or silence timeout, and the others do not notice.
    """
    error = context.get("exception")
    detail = f"{type(error).__name__}: {error}" if error else context.get("message", "")
    event(logging.WARNING, "unhandled", detail=detail)


async def _announce(relay: RelayClient, runner: web.AppRunner, parent: Connection | None) -> None:
    await relay.wait_attached()
    if parent is None:
        event(logging.INFO, "ready", http=addresses(runner))
    else:
        event(logging.INFO, "worker_ready")
        parent.send_bytes(READY)
