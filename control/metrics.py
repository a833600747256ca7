# SPDX-License-Identifier: Apache-2.0
"""Prometheus metrics, made at scrape from what the maps and the registry hold; nothing is kept in between."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

from prometheus_client import start_http_server
from prometheus_client.core import CollectorRegistry, CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from control import abi
from control.config import ListenAddress
from control.errors import ConfigError
from control.flows import in_state
from control.relay import Relay

if TYPE_CHECKING:
    from control.server import Entrance


class RelayCollector(Collector):
    """One relay's metrics.

    Scraped in threads of the HTTP server: it only reads, maps and lengths and one tuple of all
    transceivers, each of them whole under the interpreter's lock.
    """

    def __init__(self, relay: Relay, entrance: Entrance) -> None:
        self._relay = relay
        self._entrance = entrance
        self._lock = threading.Lock()
        self._closed = False

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            if self._closed:
                return
            yield from self._packets()
            yield from self._flows()
            yield from self._sessions()
            yield from self._tables()
            draining = self._relay.draining_since is not None
            yield GaugeMetricFamily("earshot_draining", "1 while no new session is taken.", float(draining))
            build = GaugeMetricFamily("earshot_build_info", "Always 1; what runs.", labels=["version"])
            build.add_metric([version("earshot")], 1)
            yield build

    def close(self) -> None:
        """Nobody reads the maps any more: they may be unmapped."""
        with self._lock:
            self._closed = True

    def _packets(self) -> Iterator[Metric]:
        counters = self._relay.datapath.reasons()
        packets = CounterMetricFamily(
            "earshot_datapath_packets", "Packets by what the program did with them.", labels=["reason"]
        )
        size = CounterMetricFamily("earshot_datapath_bytes", "Bytes of the same.", labels=["reason"])
        for reason in abi.Reason:
            packets.add_metric([reason.name.lower()], int(counters[reason]["packets"]))
            size.add_metric([reason.name.lower()], int(counters[reason]["bytes"]))
        yield packets
        yield size

    def _flows(self) -> Iterator[Metric]:
        datapath = self._relay.datapath
        states = datapath.flows["state"].copy()
        live = in_state(states, abi.FlowState.LIVE)
        yield GaugeMetricFamily("earshot_flows", "Flows that are live.", len(live))
        held = in_state(states, abi.FlowState.PROVISIONAL)
        yield GaugeMetricFamily(
            "earshot_flows_provisional", "Flows that their transceiver has not confirmed yet.", len(held)
        )
        yield GaugeMetricFamily("earshot_flow_capacity", "Flows that fit.", datapath.capacity())

    def _tables(self) -> Iterator[Metric]:
        ratio = GaugeMetricFamily(
            "earshot_table_occupancy_ratio",
            "How full a table is: from 0.7 on it is worth an alarm, at 1 it refuses.",
            labels=["table"],
        )
        for table in self._relay.tables():
            ratio.add_metric([table.name], table.ratio)
        yield ratio

    def _sessions(self) -> Iterator[Metric]:
        registry = self._relay.registry
        yield GaugeMetricFamily("earshot_sessions", "Sessions registered.", registry.session_count())
        yield GaugeMetricFamily("earshot_ufrags", "Session map entries in use.", registry.ufrag_count())
        yield GaugeMetricFamily("earshot_backends", "Endpoints of transceivers.", registry.backend_count())
        states = Counter(owner.attached for owner in registry.owners())
        transceivers = GaugeMetricFamily("earshot_transceivers", "Transceivers by state.", labels=["state"])
        transceivers.add_metric(["attached"], states[True])
        transceivers.add_metric(["detached"], states[False])
        yield transceivers
        yield CounterMetricFamily(
            "earshot_stream_events_dropped",
            "Flow events not sent because a transceiver did not read.",
            self._relay.streams.dropped_events,
        )
        yield CounterMetricFamily(
            "earshot_calls_refused",
            "gRPC connections and calls that were one too many, of a caller or in all.",
            self._entrance.refused,
        )


@contextmanager
def serving(relay: Relay, entrance: Entrance, listen: ListenAddress | None) -> Iterator[None]:
    """Serves /metrics over HTTP, from a thread of its own.

    Raises:
        ConfigError: nothing can listen there.
    """
    if listen is None:
        yield
        return
    collector = RelayCollector(relay, entrance)
    registry = CollectorRegistry()
    registry.register(collector)
    try:
        server, thread = start_http_server(listen.port, listen.host, registry)
    except OSError as error:
        raise ConfigError("metrics_listen", f"cannot listen on {listen}: {error.strerror}") from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)
        collector.close()
