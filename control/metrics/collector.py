# SPDX-License-Identifier: Apache-2.0
"""Metrics of the maps and the registry, made at each scrape; nothing is kept in between."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version

from prometheus_client.core import Metric

from control import abi, port_states
from control.batches import clock
from control.directory.errors import Refusal
from control.metrics import catalogue, quality
from control.metrics.reasons import BINDINGS, direction
from control.reaper import WHYS
from control.relay import Relay
from control.replication.direct import REFUSALS
from control.replication.group import Group
from control.replication.incoming import OUTCOMES
from control.replication.promises import OUTCOMES as PROMISE_OUTCOMES
from telemetry.declared import Labels

_TO_BE_SHOWN = {state: state.name.lower() for state in abi.FlowState}


class RelayCollector:
    """One relay's metrics.

    Scraped in threads of the HTTP server: it only reads, maps and lengths and tuples of all transceivers,
    each of them whole under the interpreter's lock; and no step of it holds that lock for long.
    """

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def collect(self) -> Iterator[Metric]:
        yield from self._packets()
        yield from self._flows()
        yield from quality.collect(self._relay.datapath, clock())
        yield from self._sessions()
        relay = self._relay
        yield catalogue.DRAINING.one(float(relay.draining_since is not None))
        yield catalogue.READY.one(float(not relay.unready))
        ages = relay.sweep_ages(clock().seconds)
        yield catalogue.SWEEP_AGE.of({(sweep,): max(0.0, age) for sweep, age in ages.items()})
        yield catalogue.STALLS.one(relay.stalls)
        yield catalogue.RELAY_INFO.of({(relay.name, relay.region): 1})
        yield catalogue.BUILD_INFO.of({(version("earshot"),): 1})

    def _packets(self) -> Iterator[Metric]:
        counters = self._relay.datapath.reasons()
        for metric, column in ((catalogue.PACKETS, "packets"), (catalogue.BYTES, "bytes")):
            values = counters[column].tolist()
            yield metric.of(
                {(direction(reason), reason.name.lower()): values[reason] for reason in abi.Reason}
            )
        packets = counters["packets"].tolist()
        yield catalogue.BINDINGS.of(
            {(result,): sum(packets[reason] for reason in reasons) for result, reasons in BINDINGS.items()}
        )

    def _flows(self) -> Iterator[Metric]:
        datapath = self._relay.datapath
        ports = port_states.count(datapath)
        states = ports.sum(axis=0).tolist()
        yield catalogue.FLOWS.one(states[abi.FlowState.LIVE])
        yield catalogue.FLOWS_PROVISIONAL.one(states[abi.FlowState.PROVISIONAL])
        yield catalogue.FLOW_CAPACITY.one(datapath.capacity())
        yield catalogue.RELAY_PORTS.of(
            {
                (str(address), name): int(ports[number, state])
                for number, address in enumerate(datapath.relays[: len(ports)])
                for state, name in _TO_BE_SHOWN.items()
            }
        )
        ended = self._relay.reaper.ended
        yield catalogue.FLOWS_ENDED.of({(why,): ended[why] for why in WHYS})
        group = self._relay.group
        leases = group.leases if group is not None else None
        yield catalogue.ADDRESSES_HELD.one(float(leases is None or leases.is_held))
        yield catalogue.ADDRESSES_TAKEN.one(len(leases.taken.links) if leases is not None else 0)
        counts = group.incoming.counts if group is not None else Counter[str]()
        yield catalogue.GROUP_FLOWS.of({(outcome,): counts[outcome] for outcome in OUTCOMES})
        yield catalogue.GROUP_WAITING.one(group.incoming.waiting if group is not None else 0)
        yield from self._promises(group)
        tables = self._relay.tables(ports)
        yield catalogue.TABLE_ENTRIES.of({(table.name,): table.used for table in tables})
        yield catalogue.TABLE_CAPACITY.of({(table.name,): table.capacity for table in tables})
        yield catalogue.OCCUPANCY.of({(table.name,): table.ratio for table in tables})

    @staticmethod
    def _promises(group: Group | None) -> Iterator[Metric]:
        leases = group.leases if group is not None else None
        promises = leases.promises if leases is not None else None
        direct = group.direct if group is not None else None
        absent = promises.absent(time.monotonic_ns()) if promises is not None else 0
        yield catalogue.GROUP_ABSENT.one(absent)
        promised = promises.counts if promises is not None else dict.fromkeys(PROMISE_OUTCOMES, 0)
        yield catalogue.GROUP_PROMISES.of({(outcome,): count for outcome, count in promised.items()})
        refused = direct.refused if direct is not None else Counter[Refusal]()
        yield catalogue.GROUP_REFUSED.of({(why.value,): refused[why] for why in REFUSALS})

    def _sessions(self) -> Iterator[Metric]:
        registry = self._relay.registry
        yield catalogue.SESSIONS.one(registry.session_count())
        yield catalogue.UFRAGS.one(registry.ufrag_count())
        yield catalogue.BACKENDS.one(registry.backend_count())
        attached = Counter(owner.attached for owner in registry.owners())
        yield catalogue.TRANSCEIVERS.of({("attached",): attached[True], ("detached",): attached[False]})
        # A copy, which no other thread can get in between.
        yield catalogue.SESSION_OPERATIONS.of(dict[Labels, float](self._relay.outcomes))
        yield catalogue.EVENTS_DROPPED.one(self._relay.streams.dropped_events)
