# SPDX-License-Identifier: Apache-2.0
"""Metrics of the program in the kernel and of what operators do with it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

from prometheus_client.core import Metric

from control import pinned
from control.attempts import RESULTS
from control.loader import Loaded
from control.metrics import catalogue
from control.reload import Reloader
from control.run_time import Sampler
from control.server import Entrance


class DaemonCollector:
    """Scraped as RelayCollector is."""

    def __init__(self, loaded: Loaded, reloader: Reloader, entrance: Entrance, sampler: Sampler) -> None:
        self._loaded = loaded
        self._reloader = reloader
        self._entrance = entrance
        self._sampler = sampler

    def collect(self) -> Iterator[Metric]:
        yield from self._program()
        yield from self._operations()
        yield catalogue.CALLS_REFUSED.one(self._entrance.refused)
        yield from self._entrance.calls.collect()

    def _program(self) -> Iterator[Metric]:
        program = self._loaded.program()
        yield catalogue.PROGRAM_INFO.of({(program.tag,): 1})
        ago = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - program.loaded_ns
        yield catalogue.PROGRAM_LOADED.one(time.time() - ago / 1e9)
        config = self._reloader.config
        links = {(link.ifindex, link.program_id) for link in pinned.attached(config.pin_path)}
        yield catalogue.PROGRAM_ATTACHED.of(
            {(name,): float((_index(name), program.id) in links) for name in config.interfaces}
        )
        yield catalogue.PROGRAM_RUNS.one(program.runs)
        yield catalogue.PROGRAM_RUN_SECONDS.one(program.run_ns / 1e9)
        yield from self._sampler.seconds.collect()

    def _operations(self) -> Iterator[Metric]:
        for attempts, count, is_ok, when in (
            (self._reloader.reloads, catalogue.RELOADS, catalogue.RELOAD_OK, catalogue.RELOAD_TIME),
            (self._reloader.upgrades, catalogue.UPGRADES, catalogue.UPGRADE_OK, catalogue.UPGRADE_TIME),
        ):
            yield count.of({(result,): attempts.results[result] for result in RESULTS})
            yield is_ok.one(float(attempts.last_ok))
            yield when.one(attempts.succeeded_at)


def _index(name: str) -> int:
    """The number of one of the host's links; 0, which none has, if it is not there."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0
