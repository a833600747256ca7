# SPDX-License-Identifier: Apache-2.0
"""The metrics of several workers as one page: each sample with the label `worker`. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from transceiver import catalogue


def merged(pages: Mapping[str, str], alive: int, restarts: int) -> bytes:
    """The pages of workers, by name, and how it stands with the workers themselves."""
    registry = CollectorRegistry()
    registry.register(_Merged(pages, alive, restarts))
    return generate_latest(registry)


class _Merged(Collector):
    def __init__(self, pages: Mapping[str, str], alive: int, restarts: int) -> None:
        self._pages = pages
        self._alive = alive
        self._restarts = restarts

    def collect(self) -> Iterator[Metric]:
        yield catalogue.WORKERS.one(self._alive)
        yield catalogue.WORKER_RESTARTS.one(self._restarts)
        families: dict[str, Metric] = {}
        for worker, page in self._pages.items():
            for family in text_string_to_metric_families(page):
                known = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                for sample in family.samples:
                    known.samples.append(sample._replace(labels={**sample.labels, "worker": worker}))
        yield from families.values()
