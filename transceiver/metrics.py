# SPDX-License-Identifier: Apache-2.0
"""Metrics for Prometheus: what happened is counted in a `Tally`, what is, is looked up at each scrape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from telemetry.declared import Labels
from transceiver import catalogue
from transceiver.admission import Admission
from transceiver.ingresses import Ingresses
from transceiver.media import Drop, Traffic
from transceiver.relays import Relays
from transceiver.speech.pool import Backend
from transceiver.speech.remote import SpeechTally


class Tally:
    """Counts of what happened since the process started."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.setups: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.flow_events: Counter[str] = Counter()
        self.restarts = 0  # ICE restarts that came to their end
        self._seconds = catalogue.SETUP_SECONDS.observing()
        self.registry.register(self._seconds)
        ProcessCollector(registry=self.registry)

    def setup(self, result: str, seconds: float | None = None) -> None:
        """A call was set up, or not; `seconds` if it was."""
        self.setups[result] += 1
        if seconds is not None:
            self._seconds.observe(seconds)


class CallCollector(Collector):
    """Everything but the histogram, made at each scrape."""

    def __init__(self, tally: Tally, traffic: Traffic, states: Callable[[], Counter[str]]) -> None:
        self._tally = tally
        self._traffic = traffic
        self._states = states

    def collect(self) -> Iterator[Metric]:
        yield catalogue.BUILD_INFO.of({(version("earshot"),): 1})
        states = self._states()
        yield catalogue.SESSIONS.of({(state,): states[state] for state in ("connecting", "connected")})
        yield catalogue.SETUPS.of(_by_word(self._tally.setups))
        yield catalogue.CALLS_ENDED.of(_by_word(self._tally.ended))
        yield catalogue.FLOW_EVENTS.of(_by_word(self._tally.flow_events))
        traffic = self._traffic
        yield catalogue.PACKETS.of({("in",): traffic.packets_in, ("out",): traffic.packets_out})
        yield catalogue.BYTES.of({("in",): traffic.bytes_in, ("out",): traffic.bytes_out})
        yield catalogue.DROPPED.of({(reason,): traffic.drops[reason] for reason in Drop})
        yield catalogue.ICE_RESTARTS.one(self._tally.restarts)


class FleetCollector(Collector):
    """Relays, and where clients are."""

    def __init__(self, relays: Relays, ingresses: Ingresses) -> None:
        self._relays = relays
        self._ingresses = ingresses

    def collect(self) -> Iterator[Metric]:
        yield catalogue.RELAY_ATTACHED.one(int(bool(self._relays.attached)))
        serving = self._relays.serving
        yield catalogue.RELAY_UP.of(
            {(str(one.target), one.region): int(one in serving) for one in self._relays.clients}
        )
        yield catalogue.PLACED.of(dict(sorted(self._ingresses.placed.items())))


class SpeechCollector(Collector):
    """What concerns speech backends, and how busy the process is."""

    def __init__(self, tally: SpeechTally, backends: Sequence[Backend], admission: Admission) -> None:
        self._tally = tally
        self._backends = backends
        self._admission = admission

    def collect(self) -> Iterator[Metric]:
        yield catalogue.LOAD.one(self._admission.share)
        backends = self._backends
        yield catalogue.BACKEND_UP.of({(backend.name,): int(backend.healthy) for backend in backends})
        yield catalogue.BACKEND_SESSIONS.of({(backend.name,): backend.sessions for backend in backends})
        yield catalogue.BACKEND_FAILURES.of(
            {
                (backend.name, kind): count
                for backend in backends
                for kind, count in sorted(backend.failures.items())
            }
        )
        yield catalogue.BACKEND_DROPPED.one(self._tally.dropped_us / 1e6)
        yield catalogue.INTERRUPTIONS.one(self._tally.interruptions)


def _by_word(counts: Counter[str]) -> dict[Labels, float]:
    return {(word,): count for word, count in sorted(counts.items())}
