# SPDX-License-Identifier: Apache-2.0
"""Metrics for Prometheus: what happened is counted in a `Tally`, what is, is looked up at each scrape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from transceiver.admission import Admission
from transceiver.media import Drop, Traffic
from transceiver.speech.pool import Backend
from transceiver.speech.remote import SpeechTally

SETUP_BUCKETS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0)


class Tally:
    """Counts of what happened since the process started."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.setups: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.flow_events: Counter[str] = Counter()
        self.restarts = 0  # ICE restarts that came to their end
        self._seconds = Histogram(
            "earshot_transceiver_setup_seconds",
            "From the offer's arrival to a connected call (DTLS done).",
            buckets=SETUP_BUCKETS,
            registry=self.registry,
        )

    def setup(self, result: str, seconds: float | None = None) -> None:
        """A call was set up, or not; `seconds` if it was."""
        self.setups[result] += 1
        if seconds is not None:
            self._seconds.observe(seconds)


class CallCollector(Collector):
    """Everything but the histogram, made at each scrape."""

    def __init__(
        self, tally: Tally, traffic: Traffic, states: Callable[[], Counter[str]], attached: Callable[[], bool]
    ) -> None:
        self._tally = tally
        self._traffic = traffic
        self._states = states
        self._attached = attached

    def collect(self) -> Iterator[Metric]:
        prefix = "earshot_transceiver"
        yield GaugeMetricFamily(
            f"{prefix}_relay_attached", "1 while attached to the relay.", int(self._attached())
        )
        sessions = GaugeMetricFamily(f"{prefix}_sessions", "Calls by state.", labels=["state"])
        states = self._states()
        for state in ("connecting", "connected"):
            sessions.add_metric([state], states[state])
        yield sessions
        for name, text, label, counts in (
            ("setups", "Offers by what became of them.", "result", self._tally.setups),
            ("calls_ended", "Ended calls by reason.", "reason", self._tally.ended),
            ("flow_events", "What the relay told of clients' flows.", "event", self._tally.flow_events),
        ):
            family = CounterMetricFamily(f"{prefix}_{name}", text, labels=[label])
            for value, count in sorted(counts.items()):
                family.add_metric([value], count)
            yield family
        traffic = self._traffic
        for unit, text, incoming, outgoing in (
            ("packets", "UDP datagrams of calls.", traffic.packets_in, traffic.packets_out),
            ("bytes", "UDP payload bytes of calls.", traffic.bytes_in, traffic.bytes_out),
        ):
            family = CounterMetricFamily(f"{prefix}_{unit}", text, labels=["direction"])
            family.add_metric(["in"], incoming)
            family.add_metric(["out"], outgoing)
            yield family
        dropped = CounterMetricFamily(
            f"{prefix}_dropped_packets", "UDP datagrams that went no further, by reason.", labels=["reason"]
        )
        for reason in Drop:
            dropped.add_metric([reason], traffic.drops[reason])
        yield dropped
        yield CounterMetricFamily(
            f"{prefix}_ice_restarts", "Completed ICE restarts of calls.", self._tally.restarts
        )


class SpeechCollector(Collector):
    """What concerns speech backends, and how busy the process is."""

    def __init__(self, tally: SpeechTally, backends: Sequence[Backend], admission: Admission) -> None:
        self._tally = tally
        self._backends = backends
        self._admission = admission

    def collect(self) -> Iterator[Metric]:
        prefix = "earshot_transceiver"
        yield GaugeMetricFamily(
            f"{prefix}_load_ratio", "Share of a core that was used lately.", self._admission.share
        )
        up = GaugeMetricFamily(f"{prefix}_backend_up", "1 while healthy.", labels=["backend"])
        sessions = GaugeMetricFamily(
            f"{prefix}_backend_sessions", "Sessions that a speech backend has from here.", labels=["backend"]
        )
        failures = CounterMetricFamily(
            f"{prefix}_backend_failures",
            "Sessions that a backend failed, by kind.",
            labels=["backend", "kind"],
        )
        for backend in self._backends:
            up.add_metric([backend.name], int(backend.healthy))
            sessions.add_metric([backend.name], backend.sessions)
            for kind, count in sorted(backend.failures.items()):
                failures.add_metric([backend.name, kind], count)
        yield up
        yield sessions
        yield failures
        yield CounterMetricFamily(
            f"{prefix}_backend_dropped_audio_seconds",
            "Clients' sound that backends were too slow for, of sessions that are over.",
            self._tally.dropped_us / 1e6,
        )
        yield CounterMetricFamily(
            f"{prefix}_interruptions", "Times that a backend stopped speech.", self._tally.interruptions
        )
