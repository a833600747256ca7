# SPDX-License-Identifier: Apache-2.0
"""The process earshot-transceiver: settings from flags and environment.

Exit codes: 0 after SIGTERM or SIGINT, 1 if it cannot start, 2 for wrong settings.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import sys
from collections.abc import Coroutine, Sequence
from importlib.metadata import version
from ipaddress import ip_address
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from fleet.key import FleetKeyError
from fleet.region import FORM, is_region
from fleet.ufrag import OWNERS
from supervision.notify import Manager
from telemetry import tracing
from telemetry.tracing import TracingError
from transceiver.calls import Limits
from transceiver.errors import LibraryError, RelayAwayError, WorkerError
from transceiver.front import serve_front
from transceiver.ingresses import RegionsFile
from transceiver.log import configure, event
from transceiver.media import Endpoint, IPAddress
from transceiver.peers import Known, PeersError
from transceiver.regions import RegionsError
from transceiver.relay_target import RelayTarget, TargetError, targets_of
from transceiver.routable import NumberedKey
from transceiver.serve import serve
from transceiver.settings import Fleet, Place, Settings, Web
from transceiver.speech.remote import Policy
from transceiver.tokens import Tokens

ECHO = "echo"
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


def _origins(_: click.Context, __: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
    for value in values:
        parts = urlsplit(value)
        if value != "*" and value != f"{parts.scheme}://{parts.netloc}":
            raise click.BadParameter(f"{value!r} is neither * nor SCHEME://HOST[:PORT]")
    return tuple(values)


def _public_url(_: click.Context, __: click.Parameter, value: str) -> str:
    parts = urlsplit(value)
    if value and (parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment):
        raise click.BadParameter(f"{value!r} is not http://HOST[/PATH] or https://HOST[/PATH]")
    return value.removesuffix("/")


def _peers(_: click.Context, __: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    named: dict[str, str] = {}
    for value in values:
        name, equals, url = value.partition("=")
        if not equals or not _NAME.fullmatch(name) or name in named:
            raise click.BadParameter(f"{value!r} is not NAME=URL, or the name is there twice")
        named[name] = url
    return named


def _tokens(_: click.Context, __: click.Parameter, value: Path | None) -> Path | None:
    if value is not None:
        try:
            Tokens(value)
        except (OSError, ValueError) as error:
            raise click.BadParameter(str(error)) from None
    return value


def _fleet_key(_: click.Context, __: click.Parameter, value: str | None) -> NumberedKey | None:
    if value is None:
        return None
    number, equals, path = value.partition("=")
    if not equals or not re.fullmatch(r"\d{1,2}", number, re.ASCII):
        raise click.BadParameter(f"{value!r} is not NUMBER=PATH")
    try:
        return NumberedKey.read(int(number), Path(path))
    except FleetKeyError as error:
        raise click.BadParameter(str(error)) from None


def _region(_: click.Context, __: click.Parameter, value: str) -> str:
    if value and not is_region(value):
        raise click.BadParameter(FORM)
    return value


def _regions(_: click.Context, __: click.Parameter, value: Path | None) -> Path | None:
    try:
        RegionsFile(value)
    except (OSError, RegionsError) as error:
        raise click.BadParameter(str(error)) from None
    return value


_FILE = click.Path(path_type=Path, dir_okay=False)
_seconds = click.FloatRange(min=0.1, max=3600)


@click.command(context_settings={"auto_envvar_prefix": "EARSHOT_TRANSCEIVER", "show_default": True})
@click.option(
    "--relay",
    "relays",
    multiple=True,
    default=["unix:/run/earshot/earshotd.sock"],
    envvar="EARSHOT_TRANSCEIVER_RELAY",  # singular, as the flag is
    help="A relay's gRPC: unix:PATH or HOST:PORT; once for each. all:HOST:PORT: one at each address of HOST.",
)
@click.option("--relay-ca", type=_FILE, help="Who signs the relay's certificate, PEM; for HOST:PORT.")
@click.option("--relay-certificate", type=_FILE, help="The transceiver's own certificate chain, PEM.")
@click.option(
    "--relay-key", type=_FILE, help="Its private key, PEM. All three are read at each attempt to attach."
)
@click.option("--relay-server-name", default="", help="The name in the relay's certificate, if not HOST.")
@click.option("--relay-insecure", is_flag=True, help="HOST:PORT without TLS, on a loopback address alone.")
@click.option(
    "--region", default="", callback=_region, help="Where this transceiver is.  [default: as its first relay]"
)
@click.option(
    "--regions-file",
    type=_FILE,
    callback=_regions,
    help="Which VIPs are near to whom; read again when it changes.  [default: the relays' own]",
)
@click.option(
    "--candidates",
    default=Place.candidates,
    type=click.IntRange(1, 2),
    help="VIPs of each address family that a client is told, where there are several.",
)
@click.option("--name", default=socket.gethostname, callback=_name, help="Who attaches.  [default: hostname]")
@click.option(
    "--http",
    default="127.0.0.1:8080",
    callback=_http,
    help="Where WHIP, the page, /metrics and /healthz are.",
)
@click.option("--http-certificate", type=_FILE, help="For HTTPS: the certificate chain, PEM.")
@click.option("--http-key", type=_FILE, help="Its private key, PEM.")
@click.option(
    "--public-url",
    default="",
    callback=_public_url,
    help="What stands before the paths of its sessions, as clients are told them.  [default: nothing]",
)
@click.option(
    "--peer",
    "peers",
    multiple=True,
    callback=_peers,
    envvar="EARSHOT_TRANSCEIVER_PEER",  # singular, as the flag is
    metavar="NAME=URL",
    help="Another transceiver's HTTP, where requests for its sessions are handed on to; once for each.",
)
@click.option(
    "--peer-template",
    default="",
    metavar="URL",
    help="The same for all: http://{name}.DOMAIN[:PORT], where {name} is the other's name.",
)
@click.option("--peer-ca", type=_FILE, help="Who signs peers' certificates, PEM.  [default: the system's]")
@click.option("--page/--no-page", default=True, help="Whether there is a page to call from, at /.")
@click.option(
    "--auth-token-file",
    type=_FILE,
    callback=_tokens,
    help="Bearer tokens that may call, one a line; without it everybody may.",
)
@click.option(
    "--cors-origin",
    "cors_origins",
    multiple=True,
    default=["*"],
    callback=_origins,
    help="Whose pages may call; once for each.",
)
@click.option(
    "--backend",
    "backends",
    multiple=True,
    default=[ECHO],
    help="Who is talked to: echo, or speech backends: unix:PATH or HOST:PORT, once for each.",
)
@click.option("--backend-ca", type=_FILE, help="Who signs backends' certificates, PEM; for HOST:PORT.")
@click.option("--backend-certificate", type=_FILE, help="The transceiver's certificate chain for them, PEM.")
@click.option("--backend-key", type=_FILE, help="Its private key, PEM.")
@click.option("--backend-server-name", default="", help="The name in their certificates, if not HOST.")
@click.option("--backend-insecure", is_flag=True, help="HOST:PORT without TLS, on a loopback address alone.")
@click.option(
    "--backend-failure",
    default="retry",
    type=click.Choice(["retry", "end"]),
    help="What becomes of a call whose backend fails: begun anew, at another one if there is one, or ended.",
)
@click.option(
    "--backend-start-timeout", default=Policy.start, type=_seconds, help="Seconds that one has to be ready."
)
@click.option(
    "--backend-stall-timeout", default=Policy.stall, type=_seconds, help="Seconds that one may take no sound."
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
    "--fleet-key",
    callback=_fleet_key,
    metavar="NUMBER=PATH",
    help="The key that routable ufrags are made with; relays hold it too.  [default: random ufrags]",
)
@click.option(
    "--fleet-number",
    type=click.IntRange(0, OWNERS - 1),
    help="This transceiver's number in the fleet, nobody else's. Workers take it and those that follow.",
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
    "--max-load",
    default=Limits.load,
    type=click.FloatRange(0.05, 1.0),
    help="Share of a core beyond which a worker answers 503; 1: no limit.",
)
@click.option(
    "--max-setups",
    default=Limits.setups,
    type=click.FloatRange(0.1, 1000),
    help="Calls a second that each worker sets up; more are answered 503.",
)
@click.option(
    "--setup-timeout", default=Limits.setup, type=_seconds, help="Seconds that a call has to connect."
)
@click.option(
    "--silence-timeout", default=Limits.silence, type=_seconds, help="Seconds until a client is gone."
)
@click.option("--relay-timeout", default=Limits.relay, type=_seconds, help="Seconds for the relay to answer.")
@click.option(
    "--drain-timeout",
    default=0.0,
    type=click.FloatRange(0, 86400),
    help="Seconds that calls may go on after SIGTERM; new ones are answered 503. A second SIGTERM ends them.",
)
@click.option(
    "--move-clients/--no-move-clients",
    default=True,
    help="Whether clients are told, by their data channel, to call elsewhere when this process is to end.",
)
@click.option(
    "--log-level",
    default="info",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="What is logged.",
)
@click.version_option(version("earshot"))
def main(
    relays: tuple[str, ...],
    relay_ca: Path | None,
    relay_certificate: Path | None,
    relay_key: Path | None,
    relay_server_name: str,
    relay_insecure: bool,
    region: str,
    regions_file: Path | None,
    candidates: int,
    name: str,
    http: Endpoint,
    http_certificate: Path | None,
    http_key: Path | None,
    public_url: str,
    peers: dict[str, str],
    peer_template: str,
    peer_ca: Path | None,
    page: bool,
    auth_token_file: Path | None,
    cors_origins: tuple[str, ...],
    backends: tuple[str, ...],
    backend_ca: Path | None,
    backend_certificate: Path | None,
    backend_key: Path | None,
    backend_server_name: str,
    backend_insecure: bool,
    backend_failure: str,
    backend_start_timeout: float,
    backend_stall_timeout: float,
    media_addresses: tuple[IPAddress, ...],
    media_port: int,
    fleet_key: NumberedKey | None,
    fleet_number: int | None,
    workers: int,
    max_calls: int,
    max_load: float,
    max_setups: float,
    setup_timeout: float,
    silence_timeout: float,
    relay_timeout: float,
    drain_timeout: float,
    move_clients: bool,
    log_level: str,
) -> None:
    """Terminates WebRTC calls that an Earshot relay forwards; echoes them, or brings them to speech backends.

    \b
    Example:
      earshot-transceiver --relay unix:/run/earshot/earshotd.sock --http 0.0.0.0:8080 \\
                          --media-address 10.0.0.5

    Every flag can be given as EARSHOT_TRANSCEIVER_<FLAG> in the environment.
    """
    if media_port and media_port + workers > 65536:
        raise click.BadParameter(f"no {workers} ports from {media_port} on", param_hint="--media-port")
    if fleet_number is not None and fleet_number + workers > OWNERS:
        raise click.BadParameter(f"no {workers} numbers from {fleet_number} on", param_hint="--fleet-number")
    if (http_certificate is None) != (http_key is None):
        raise click.UsageError("--http-certificate and --http-key go together")
    if (fleet_key is None) != (fleet_number is None):
        raise click.UsageError("--fleet-key and --fleet-number go together")
    if ECHO in backends and len(backends) > 1:
        raise click.BadParameter("echo goes alone", param_hint="--backend")
    try:
        known = Known(peers, peer_template, peer_ca)
    except PeersError as error:
        raise click.UsageError(str(error)) from None
    configure(log_level)
    try:
        tracing.check(os.environ)
    except TracingError as error:
        raise click.UsageError(str(error)) from None
    try:
        tls = (relay_ca, relay_certificate, relay_key, relay_server_name, relay_insecure, "relay")
        targets = targets_of(relays, *tls)
        tls = (backend_ca, backend_certificate, backend_key, backend_server_name, backend_insecure, "backend")
        speech = tuple(RelayTarget(backend, *tls) for backend in backends if backend != ECHO)
    except TargetError as error:
        raise click.UsageError(str(error)) from None
    settings = Settings(
        relays=targets,
        name=name,
        http=http,
        web=Web(page, cors_origins, auth_token_file, http_certificate, http_key, public_url, known),
        media_addresses=media_addresses,
        media_port=media_port,
        backends=speech,
        policy=Policy(backend_failure == "retry", backend_start_timeout, backend_stall_timeout),
        limits=Limits(max_calls, max_load, max_setups, setup_timeout, silence_timeout, relay_timeout),
        log_level=log_level,
        fleet=Fleet(fleet_key, fleet_number) if fleet_key and fleet_number is not None else None,
        drain=drain_timeout,
        move=move_clients,
        place=Place(region, regions_file, candidates),
    )
    manager = Manager.of(os.environ)
    _run(serve(settings, manager) if workers == 1 else serve_front(settings, workers, _work, manager))


def _work(settings: Settings, parent: Connection) -> None:
    """The whole of a worker process."""
    configure(settings.log_level, settings.suffix)
    _run(serve(settings, Manager(), parent))


def _run(serving: Coroutine[Any, Any, None]) -> None:
    """Runs it to its end; the process ends with 1 if it cannot start."""
    try:
        asyncio.run(serving)
    except (LibraryError, RelayAwayError, WorkerError, OSError) as error:
        event(logging.ERROR, "cannot_start", detail=str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
