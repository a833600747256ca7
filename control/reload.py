# SPDX-License-Identifier: Apache-2.0
"""The configuration read again while the daemon runs: what may change, and in which order it does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import fields

from control import hostlinks, logs, run_time
from control.attempts import Attempts
from control.check import start
from control.config import Config
from control.errors import ConfigError
from control.loader import Loaded
from control.logs import event
from control.nexthops import NextHops
from control.relay import Relay
from control.run_time import Sampler
from control.server import Entrance
from supervision.notify import Manager

# All others shape the maps, or are where somebody is connected right now.
HOT = frozenset(
    {
        "interfaces",
        "largest_packet",
        "vips",
        "relay_addresses",
        "relay_address_drain_seconds",
        "name",
        "region",
        "transceivers",
        "max_sessions",
        "max_sessions_per_transceiver",
        "max_streams",
        "max_streams_per_identity",
        "flow_idle_seconds",
        "grace_seconds",
        "source_requests_per_second",
        "source_exempt",
        "bindings_per_second",
        "flows_per_session",
        "fleet_keys",
        "group_relay_addresses",
        "directory_grace_seconds",
        "run_time_stats",
        "log_level",
    }
)

# After which nobody still reads maps that have been exchanged: a scrape in its thread, say.
_CLOSE_SECONDS = 5.0

_log = logging.getLogger(__name__)


def changed(before: Config, after: Config) -> list[str]:
    """The settings that differ.

    Raises:
        ConfigError: one of them cannot change while the daemon runs.
    """
    names = [one.name for one in fields(Config) if getattr(before, one.name) != getattr(after, one.name)]
    for name in names:
        if name not in HOT:
            raise ConfigError(name, "cannot change while earshotd runs; restart it (calls go on)")
    if after.directory and after.group_relay_addresses and not before.group_relay_addresses:
        raise ConfigError(
            "group_relay_addresses", "earshotd joins a group when it starts; restart it (calls go on)"
        )
    return names


class Reloader:
    """Takes over a changed configuration, and a changed program.

    Attributes:
        reloads, upgrades: what became of those that were asked for.
    """

    def __init__(
        self,
        config: Config,
        read: Callable[[], Config],
        loaded: Loaded,
        relay: Relay,
        hops: NextHops,
        manager: Manager,
    ) -> None:
        """`read` makes a configuration of all its sources; it raises ConfigError."""
        self.config = config
        self.reloads, self.upgrades = Attempts(), Attempts()
        self._read = read
        self._loaded = loaded
        self._relay = relay
        self._hops = hops
        self._manager = manager
        self._entrance: Entrance | None = None
        self._sampler: Sampler | None = None
        self._turn = asyncio.Lock()  # one after the other
        self._signalled: set[asyncio.Task[None]] = set()

    def attend(self, entrance: Entrance, sampler: Sampler) -> None:
        """Limits and rights of callers, too, follow the configuration from now on; and what is sampled."""
        self._entrance = entrance
        self._sampler = sampler

    async def reload(self) -> list[str]:
        """Reads the configuration and takes over what has changed; says what that was.

        Raises:
            ConfigError: something is wrong, or cannot change: then nothing has.
            DatapathError: the kernel refused it.
        """
        async with self._turn:
            with self._manager.reloading(), self.reloads.counted():
                names = await self._take_over()
        event(_log, logging.INFO, "reloaded", changed=",".join(names) or "nothing")
        return names

    async def _take_over(self) -> list[str]:
        after = self._read()
        names = changed(self.config, after)
        run_time.check(after.run_time_stats)
        links = await asyncio.to_thread(hostlinks.find, after.interfaces)
        await asyncio.to_thread(start.refuse, after)
        # The kernel first: it is what can refuse. Nobody else has a turn before the relay knows.
        former = self._loaded.apply(after, links)
        self.config = after
        self._relay.reconfigure(after)
        if former is not None:
            event(_log, logging.INFO, "maps_enlarged", flow_capacity=self._loaded.datapath.capacity())
            asyncio.get_running_loop().call_later(_CLOSE_SECONDS, former.close)
        self._hops.reconfigure(after.interfaces)
        if self._entrance is not None:
            self._entrance.reconfigure(after)
        if self._sampler is not None:
            self._sampler.set_mode(after.run_time_stats)
        logs.set_level(after.log_level)
        return names

    def reload_on_signal(self) -> None:
        """For SIGHUP, where nobody waits for an answer: what is wrong is in the log."""
        task = asyncio.create_task(self._reload_and_say())
        self._signalled.add(task)
        task.add_done_callback(self._signalled.discard)

    async def _reload_and_say(self) -> None:
        try:
            await self.reload()
        except ConfigError as error:
            event(_log, logging.ERROR, "reload_refused", field=error.field, message=error.message)
        except Exception as error:  # noqa: BLE001 - whatever it is, calls and callers go on as before
            event(_log, logging.ERROR, "reload_failed", message=error)

    async def upgrade(self) -> tuple[int, int]:
        """Loads the program as it is installed now; returns its number and how many links it is on.

        Raises:
            DatapathError: it does not load, or has other maps; the one that runs goes on.
        """
        async with self._turn:
            with self.upgrades.counted():
                links = await asyncio.to_thread(hostlinks.find, self.config.interfaces)
                self._loaded.apply(self.config, links)
            program_id = self._loaded.program_id()
        event(_log, logging.INFO, "program_replaced", program_id=program_id, links=len(links))
        return program_id, len(links)
