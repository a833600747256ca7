# SPDX-License-Identifier: Apache-2.0
"""A daemon joins its group: what it takes of the configuration, and in which order."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from control.config import Config
from control.directory.link import Link
from control.directory.seal import Sealer
from control.loader import Loaded
from control.nexthops import NextHops
from control.relay import Relay
from control.replication.announce import Announcer
from control.replication.direct import Direct
from control.replication.group import Group
from control.replication.lease import Leases, unfence


@contextlib.asynccontextmanager
async def joined(config: Config, loaded: Loaded, relay: Relay, hops: NextHops) -> AsyncIterator[None]:
    """This relay is one of a group while the block runs, if the configuration names one.

    Raises:
        ConfigError: the directory's password or certificates cannot be read, or somebody else has the port.
    """
    target = config.directory_target
    if target is None or not config.group_relay_addresses:
        unfence(loaded.datapath)
        yield
        return
    async with contextlib.AsyncExitStack() as stack:
        link, sealer = Link(target), Sealer(loaded.datapath.fleet_keys)
        stack.push_async_callback(link.close)
        group = Group(
            config.name,
            loaded.datapath,
            relay.registry,
            relay.reaper,
            relay.turns,
            loaded.entering,
            link,
            sealer,
            lambda: hops.have_macs,
            config.flow_idle_seconds,
        )
        relay.group = group
        if config.group_takeover:

            def is_fit() -> bool:
                return hops.has_all_links and group.is_recovered.is_set()

            announcer = await stack.enter_async_context(Announcer())
            # A connection of its own: a list of flows that is being sent must not hold up a lease.
            leasing = Link(target)
            stack.push_async_callback(leasing.close)
            group.leases = Leases(loaded.datapath, leasing, sealer.instance, announcer, is_fit)
            group.direct = group.leases.way = Direct(config.group_port, sealer, group.leases.hear)
            stack.enter_context(group.direct.running())
            await stack.enter_async_context(group.leases.running())
        else:
            unfence(loaded.datapath)
        await stack.enter_async_context(group.running())
        yield
