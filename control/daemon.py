# SPDX-License-Identifier: Apache-2.0
"""earshotd: the node daemon. It decides; the kernel forwards, with or without it."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from control import config_file, garbage, logs, run_time, settings
from control.batches import clock
from control.check import start
from control.config import Config
from control.errors import ConfigError, EarshotError
from control.loader import Loaded, open_datapath
from control.metrics.collector import RelayCollector
from control.metrics.serving import serving
from control.nexthops import NextHops
from control.occupancy import Table, Watch
from control.reaper import SCAN_SECONDS
from control.relay import Relay
from supervision.notify import Manager, Pulse
from telemetry import tracing

SWEEP_SECONDS = 0.5
WATCH_SECONDS = 2.0
# Of a connection: the caller's, and both ends of the one to gRPC's own socket (control/front.py).
_DESCRIPTORS_EACH = 3
_DESCRIPTORS_OTHERS = 512
EXIT_FAILED = 1
EXIT_CONFIG = 2

_log = logging.getLogger(__name__)


async def run(config: Config, loaded: Loaded, read: Callable[[], Config], manager: Manager) -> None:
    """Serves until SIGTERM or SIGINT; SIGHUP has the configuration read again, by `read`.

    `manager` is told how it goes. It hears that the daemon is alive when all of what must come round
    again and again has done so: who is asked by no caller, and hangs, is noticed too.

    Raises:
        EarshotError: it cannot start.
    """
    # gRPC's core writes to stderr by itself, a line for each handshake that a stranger has failed, unless
    # it is told otherwise before it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    from control import server
    from control.admin import Operations
    from control.metrics.daemon import DaemonCollector
    from control.metrics.directory import DirectoryCollector
    from control.reload import Reloader
    from control.replication.joining import joined

    garbage.pause()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    datapath = loaded.datapath
    async with AsyncExitStack() as stack:
        hops = await stack.enter_async_context(NextHops(datapath, config.interfaces))
        traces = tracing.opened(os.environ, "earshotd", version("earshot"), config.name)
        relay = Relay(config, datapath, hops, stack.enter_context(traces))
        entrance = server.Entrance.of(config)
        reloader = Reloader(config, read, loaded, relay, hops, manager)
        sampler = run_time.Sampler(loaded.program, config.run_time_stats)
        reloader.attend(entrance, sampler)
        loop.add_signal_handler(signal.SIGHUP, reloader.reload_on_signal)
        operations = Operations(reloader.reload, reloader.upgrade)
        sources = (
            RelayCollector(relay),
            DaemonCollector(loaded, reloader, entrance, sampler),
            DirectoryCollector(relay.directory),
        )
        stack.enter_context(serving(sources, config.metrics_listen, lambda: relay.unready))
        if relay.directory is not None:
            await stack.enter_async_context(relay.directory.running())
        await stack.enter_async_context(joined(config, loaded, relay, hops))
        await stack.enter_async_context(server.serving(relay, config, entrance, operations))
        pulse = Pulse(manager, frozenset({"scan", "sweep", "watch"}))
        async with asyncio.TaskGroup() as tasks:
            chores = [
                tasks.create_task(_scan(relay, pulse)),
                tasks.create_task(_sweep(relay, pulse)),
                tasks.create_task(_watch(relay, manager, pulse)),
                tasks.create_task(sampler.run()),
                tasks.create_task(garbage.collect_now_and_then(lambda: relay.streams.ended)),
            ]
            garbage.settle()
            _say_ready(config, relay, loaded.xdp_mode)
            manager.ready()
            await stopping.wait()
            logs.event(_log, logging.INFO, "stopping")
            if relay.directory is not None:
                relay.directory.leave_soon()
            manager.stopping()
            for chore in chores:
                chore.cancel()


async def _watch(relay: Relay, manager: Manager, pulse: Pulse) -> None:
    watch = Watch()
    while True:
        tables = relay.tables()
        watch.look(tables)
        manager.status(_status(relay, tables))
        pulse.beat("watch")
        await asyncio.sleep(WATCH_SECONDS)


async def _scan(relay: Relay, pulse: Pulse) -> None:
    while True:
        await asyncio.sleep(SCAN_SECONDS)
        await relay.scan()
        pulse.beat("scan")


async def _sweep(relay: Relay, pulse: Pulse) -> None:
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        if ended := await relay.sweep():
            logs.event(_log, logging.INFO, "sessions_expired", sessions=ended)
        relay.leaving.look(clock())
        pulse.beat("sweep")


def _status(relay: Relay, tables: list[Table]) -> str:
    """The daemon's state in a line."""
    flows = sum(table.used for table in tables if table.name.startswith("flows_"))
    draining = "" if relay.draining_since is None else "draining, "
    vips = ", ".join(map(str, relay.vips))
    return f"{draining}{relay.registry.session_count()} sessions, {flows} flows; {vips}"


def _first_line(error: EarshotError) -> str:
    """For a status of one line: the verifier's words, for one, have many."""
    return str(error).partition("\n")[0]


def _allow_descriptors(streams: int) -> None:
    """Raises the limit of open files, where it may be raised, to what so many callers need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS_EACH * streams + _DESCRIPTORS_OTHERS
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _say_ready(config: Config, relay: Relay, xdp_mode: str) -> None:
    logs.event(
        _log,
        logging.INFO,
        "ready",
        version=version("earshot"),
        relay=config.name,
        pid=os.getpid(),
        interfaces=",".join(config.interfaces),
        xdp_mode=xdp_mode,
        vips=",".join(map(str, config.vips)),
        grpc=config.grpc_socket,
        sessions=relay.registry.session_count(),
        flow_capacity=relay.datapath.capacity(),
    )


def _check_tracing() -> None:
    try:
        tracing.check(os.environ)
    except tracing.TracingError as error:
        raise ConfigError(error.variable, error.message) from error


def _read_file(path: Path | None) -> dict[str, Any]:
    if path is None and not config_file.DEFAULT.exists():
        return {}
    return config_file.read(path or config_file.DEFAULT)


def _flags(command: Callable[..., None]) -> Callable[..., None]:
    for key in reversed(settings.KEYS):
        command = click.option(
            settings.flag_name(key) + (f"/--no-{key}" if key in settings.ON else ""),
            key,
            multiple=key in settings.LIST_FLAGS,
            is_flag=key in settings.BOOLEANS,
            default=None,
            help=settings.HELP[key],
        )(command)
    return command


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help=f"TOML file.  [default: {config_file.DEFAULT}, if it is there]",
)
@_flags
@click.version_option(version("earshot"), prog_name="earshotd")
def main(config_path: Path | None, **flags: Any) -> None:
    """Run Earshot's node daemon in the foreground.

    Each setting may stand in the TOML file under its flag's name with underscores (lists in the
    plural), or in the environment as EARSHOT_<NAME>. Flags win over the environment, and the
    environment over the file. SIGTERM stops the daemon and leaves calls alone; SIGHUP has it read
    its configuration again.

    \b
    Example:
      earshotd --interface eth0 --vip 203.0.113.1:3478 --relay-address 10.0.0.1
    """
    logs.set_up("info")
    # Until there is a configuration to be read again, it would end us.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    given = {key: value for key, value in flags.items() if value not in (None, ())}
    manager = Manager.of(os.environ)
    try:

        def read() -> Config:
            return settings.build(_read_file(config_path), os.environ, given)

        config = read()
        run_time.check(config.run_time_stats)
        _check_tracing()
        logs.set_up(config.log_level)
        _allow_descriptors(config.max_streams)
        start.say(config)
        start.refuse(config)
        with closing(open_datapath(config)) as loaded:
            asyncio.run(run(config, loaded, read, manager))
        logs.event(_log, logging.INFO, "stopped", datapath="left in place")
    except ConfigError as error:
        logs.event(_log, logging.ERROR, "bad_configuration", field=error.field, message=error.message)
        manager.status(f"bad configuration: {error}")
        sys.exit(EXIT_CONFIG)
    except EarshotError as error:
        logs.event(_log, logging.ERROR, "failed", message=error)
        manager.status(_first_line(error))
        sys.exit(EXIT_FAILED)
