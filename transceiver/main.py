# SPDX-License-Identifier: Apache-2.0
"""The process earshot-transceiver: settings from flags and environment, parts started and stopped.

Exit codes: 0 after SIGTERM or SIGINT, 1 if it cannot start, 2 for wrong settings.
"""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import socket
import sys
from collections.abc import Coroutine, Sequence
from importlib.metadata import version
from ipaddress import ip_address
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click
from aiohttp import web

from transceiver.calls import Calls, Limits
from transceiver.errors import LibraryError, WorkerError
from transceiver.front import serve_front
from transceiver.library import prepare
from transceiver.listening import addresses, listening
from transceiver.log import configure, event
from transceiver.media import Endpoint, IPAddress, Traffic
from transceiver.metrics import CallCollector, Tally
from transceiver.mux import media_ports
from transceiver.relay_client import RelayClient
from transceiver.relay_target import RelayTarget, TargetError
from transceiver.settings import Settings
from transceiver.whip import make_app
from transceiver.workers import READY, orphaned

RELAY_STOP_TIMEOUT = 2.0
MAX_WORKERS = 64  # as many streams as a relay takes of one identity, unless told otherwise
_NAME = re.compile(r"[A-Za-z0-9._:-]{1,60}")  # the relay takes 64: a worker adds its number


def _http(_: click.Context, __: click.Parameter, value: str) -> Endpoint:
    host, _separator, port = value.rpartition(":")
    try:
        endpoint = Endpoint(ip_address(host.removeprefix("[").removesuffix("]")), int(port))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not ADDRESS:PORT or [ADDRESS]:PORT") from None
    if not 0 <= endpoint.port <= 65535:
        raise click.BadParameter(f"{port} is not a port")
    return endpoint


def _media(_: click.Context, __: click.Parameter, values: Sequence[str]) -> tuple[IPAddress, ...]:
    try:
        addresses = tuple(ip_address(value) for text in values for value in text.split(","))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if len({address.version for address in addresses}) != len(addresses):
        raise click.BadParameter("at most one address of each family")
    if any(address.is_unspecified or address.is_multicast for address in addresses):
        raise click.BadParameter("a relay cannot send to an unspecified or multicast address")
    return addresses


def _name(_: click.Context, __: click.Parameter, value: str) -> str:
    if not _NAME.fullmatch(value):
        raise click.BadParameter("1 to 60 of A-Za-z0-9._:-")
    return value


_FILE = click.Path(path_type=Path, dir_okay=False)
_seconds = click.FloatRange(min=0.1, max=3600)


@click.command(context_settings={"auto_envvar_prefix": "EARSHOT_TRANSCEIVER", "show_default": True})
@click.option(
    "--relay", default="unix:/run/earshot/earshotd.sock", help="The relay's gRPC: unix:PATH or HOST:PORT."
)
@click.option("--relay-ca", type=_FILE, help="Who signs the relay's certificate, PEM; for HOST:PORT.")
@click.option("--relay-certificate", type=_FILE, help="The transceiver's own certificate chain, PEM.")
@click.option(
    "--relay-key", type=_FILE, help="Its private key, PEM. All three are read at each attempt to attach."
)
@click.option("--relay-server-name", default="", help="The name in the relay's certificate, if not HOST.")
@click.option("--relay-insecure", is_flag=True, help="HOST:PORT without TLS, on a loopback address alone.")
@click.option("--name", default=socket.gethostname, callback=_name, help="Who attaches.  [default: hostname]")
@click.option(
    "--http", default="127.0.0.1:8080", callback=_http, help="Where WHIP, /metrics and /healthz listen."
)
@click.option(
    "--media-address",
    "media_addresses",
    multiple=True,
    required=True,
    envvar="EARSHOT_TRANSCEIVER_MEDIA_ADDRESS",  # singular, as the flag is
    callback=_media,
    help="Where media sockets are bound and the relay sends to; once for each family.",
)
@click.option(
    "--media-port",
    default=0,
    type=click.IntRange(0, 65535),
    help="UDP port of all calls; 0: any. Workers take it and those that follow.",
)
@click.option(
    "--workers", default=1, type=click.IntRange(1, MAX_WORKERS), help="Processes that share the calls."
)
@click.option(
    "--max-calls",
    default=Limits.calls,
    type=click.IntRange(min=1),
    help="Of each worker; more are answered 503.",
)
@click.option(
    "--setup-timeout", default=Limits.setup, type=_seconds, help="Seconds that a call has to connect."
)
@click.option(
    "--silence-timeout", default=Limits.silence, type=_seconds, help="Seconds until a client is gone."
)
@click.option("--relay-timeout", default=Limits.relay, type=_seconds, help="Seconds for the relay to answer.")
@click.option(
    "--log-level",
    default="info",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="What is logged.",
)
@click.version_option(version("earshot"))
def main(
    relay: str,
    relay_ca: Path | None,
    relay_certificate: Path | None,
    relay_key: Path | None,
    relay_server_name: str,
    relay_insecure: bool,
    name: str,
    http: Endpoint,
    media_addresses: tuple[IPAddress, ...],
    media_port: int,
    workers: int,
    max_calls: int,
    setup_timeout: float,
    silence_timeout: float,
    relay_timeout: float,
    log_level: str,
) -> None:
    """Terminates WebRTC calls that an Earshot relay forwards, and echoes them.

    \b
    Example:
      earshot-transceiver --relay unix:/run/earshot/earshotd.sock --http 0.0.0.0:8080 \\
                          --media-address 10.0.0.5

    Every flag can be given as EARSHOT_TRANSCEIVER_<FLAG> in the environment.
    """
    if media_port and media_port + workers > 65536:
        raise click.BadParameter(f"no {workers} ports from {media_port} on", param_hint="--media-port")
    configure(log_level)
    try:
        target = RelayTarget(relay, relay_ca, relay_certificate, relay_key, relay_server_name, relay_insecure)
    except TargetError as error:
        raise click.UsageError(str(error)) from None
    limits = Limits(max_calls, setup_timeout, silence_timeout, relay_timeout)
    settings = Settings(target, name, http, media_addresses, media_port, limits, log_level)
    _run(serve(settings) if workers == 1 else serve_front(settings, workers, _work))


def _work(settings: Settings, parent: Connection) -> None:
    """The whole of a worker process."""
    configure(settings.log_level, settings.suffix)
    _run(serve(settings, parent))


def _run(serving: Coroutine[Any, Any, None]) -> None:
    """Runs it to its end; the process ends with 1 if it cannot start."""
    try:
        asyncio.run(serving)
    except (LibraryError, WorkerError, OSError) as error:
        event(logging.ERROR, "cannot_start", detail=str(error))
        sys.exit(1)


async def serve(settings: Settings, parent: Connection | None = None) -> None:
    """Runs until SIGTERM or SIGINT; a worker, also until its parent is gone.

    Raises `LibraryError` if aiortc is not as needed, `OSError` if it cannot listen.
    """
    prepare()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_unhandled)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if parent is not None:
        orphaned(parent, stop.set)
    traffic, tally = Traffic(), Tally()
    relay = RelayClient(
        settings.relay,
        settings.name + settings.suffix,
        f"earshot-transceiver/{version('earshot')}",
        snapshot=lambda: calls.registrations(),
        on_flow=lambda response: calls.flow_event(response),
    )
    with media_ports(settings.media_addresses, settings.media_port, traffic) as ports:
        calls = Calls(relay, ports, settings.limits, tally, traffic, settings.suffix)
        tally.registry.register(CallCollector(tally, traffic, calls.states, lambda: relay.attached))
        runner = await listening(make_app(calls, relay, tally.registry), settings.http)
        try:
            attaching = asyncio.create_task(relay.run())
            watching = asyncio.create_task(calls.watch())
            announcing = asyncio.create_task(_announce(relay, runner, parent))
            await stop.wait()
            event(logging.INFO, "stopping")
            announcing.cancel()
            watching.cancel()
            await runner.cleanup()
            await calls.end_all()
            attaching.cancel()
            await asyncio.wait([attaching], timeout=RELAY_STOP_TIMEOUT)
        finally:
            await runner.cleanup()
    event(logging.INFO, "stopped")


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


if __name__ == "__main__":
    main()
