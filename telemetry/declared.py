# SPDX-License-Identifier: Apache-2.0
"""Metrics as declarations: name, kind, labels and meaning stand in one place, for the code that makes
samples of them and for the page that lists them (docs/generate_metrics.py).

What is read at a scrape becomes a family of samples; what is counted while it happens becomes an object of
prometheus_client's own. Neither has a label whose values anybody outside can make up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

import prometheus_client
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeHistogramMetricFamily,
    GaugeMetricFamily,
    Metric,
)

# Twice as many lines, for a time that `process_start_time_seconds` tells.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

Labels = tuple[str, ...]


class Kind(StrEnum):
    """What a value is. The words of the exposition format."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    # How many there are now, by size: buckets that fall again. Read without rate().
    GAUGE_HISTOGRAM = "gaugehistogram"


class Distribution(NamedTuple):
    """How many are in each bucket, up to infinity and not yet added up, and the sum of all their values."""

    counts: Sequence[int]
    total: float


class Declared(NamedTuple):
    """One metric.

    Attributes:
        name: as prometheus_client wants it: a counter's is without `_total`.
        text: what it means, in a sentence; units are in the name.
        bounds: of a histogram's buckets, upper ends, without infinity.
    """

    kind: Kind
    name: str
    text: str
    labels: Labels = ()
    bounds: tuple[float, ...] = ()

    @property
    def shown(self) -> str:
        """The name that is asked for in a query."""
        return {
            Kind.COUNTER: f"{self.name}_total",
            Kind.HISTOGRAM: f"{self.name}_bucket",
            Kind.GAUGE_HISTOGRAM: f"{self.name}_bucket",
        }.get(self.kind, self.name)

    @property
    def sample_names(self) -> tuple[str, ...]:
        """All names under which a scrape has samples of it."""
        if self.kind is Kind.HISTOGRAM:
            return tuple(f"{self.name}_{part}" for part in ("bucket", "count", "sum"))
        if self.kind is Kind.GAUGE_HISTOGRAM:
            return tuple(f"{self.name}_{part}" for part in ("bucket", "gcount", "gsum"))
        return (self.shown,)

    def of(self, values: Mapping[Labels, float]) -> Metric:
        """The family with these values, by the values of its labels."""
        family: CounterMetricFamily | GaugeMetricFamily
        if self.kind is Kind.COUNTER:
            family = CounterMetricFamily(self.name, self.text, labels=self.labels)
        else:
            family = GaugeMetricFamily(self.name, self.text, labels=self.labels)
        for labels, value in values.items():
            family.add_metric(labels, value)
        return family

    def one(self, value: float) -> Metric:
        """The family of a metric without labels."""
        return self.of({(): value})

    def spread(self, values: Mapping[Labels, Distribution]) -> Metric:
        """The family of a gauge histogram; a distribution has one count more than there are `bounds`."""
        family = GaugeHistogramMetricFamily(self.name, self.text, labels=self.labels)
        ends = [*(repr(float(bound)) for bound in self.bounds), "+Inf"]
        for labels, spread in values.items():
            added, buckets = 0, []
            for end, count in zip(ends, spread.counts, strict=True):
                added += count
                buckets.append((end, float(added)))
            family.add_metric(labels, buckets, spread.total)
        return family

    def counting(self) -> prometheus_client.Counter:
        """A counter, raised while things happen. In no registry: a collector yields what it collects."""
        return prometheus_client.Counter(self.name, self.text, self.labels, registry=None)

    def gauging(self) -> prometheus_client.Gauge:
        """Likewise, of what goes up and down."""
        return prometheus_client.Gauge(self.name, self.text, self.labels, registry=None)

    def observing(self) -> prometheus_client.Histogram:
        """Likewise, of what has a size."""
        return prometheus_client.Histogram(
            self.name, self.text, self.labels, registry=None, buckets=self.bounds
        )
