# SPDX-License-Identifier: Apache-2.0
"""Scrapes of a daemon with full maps: how long each takes, and how long callers wait meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import numpy as np

from control import abi
from control.datapath import Datapath
from control.metrics.reasons import DOWN, UP
from tests.lab import scraping
from tests.lab.topology import Site

PORT = 9464  # the daemon's own default
PAUSE = 0.2  # seconds: far more often than any Prometheus server
_PART = 1 << 15


def fill_quality(datapath: Datapath) -> None:
    """Both ways of every flow have been measured, just now: the most that a scrape can find."""
    now = time.monotonic_ns()
    for start in range(0, len(datapath.flows), _PART):
        states = datapath.flows["state"][start : start + _PART]
        binding = states & ~np.uint32((1 << abi.FLOW_STATE_BITS) - 1)
        records = np.zeros(len(states), abi.QUALITY)
        streams = records["streams"]
        for way in (abi.Way.UP, abi.Way.DOWN):
            ssrc = np.uint64(1 + way) << np.uint64(32)
            streams["identity"][:, way] = ssrc | binding.astype(np.uint64) | np.uint64(way)
        streams["arrival"] = now
        streams["received"], streams["lost"] = 1000, np.arange(2) * 10
        streams["jitter"], streams["clock"] = 48 * 256 * 5, 48000 // abi.CLOCK_UNIT
        datapath.quality[start : start + _PART] = records
        more = np.zeros(len(states), abi.QUALITY_MORE)
        more["binding"] = binding
        more["trips"]["microseconds"] = 20_000
        more["trips"]["answered_at"] = now >> abi.FLOW_TICK_SHIFT & 0xFFFFFFFF
        datapath.quality_more[start : start + _PART] = more


def measured(site: Site) -> int:
    """Streams that a scrape finds to flow."""
    values = scraping.scrape(site.relay, "127.0.0.1", PORT)
    return int(sum(values["earshot_stream_loss_ratio_gcount", way] for way in (UP, DOWN)))


@contextmanager
def scraped(site: Site) -> Iterator[list[float]]:
    """Scrapes again and again while the block runs; seconds that each took."""
    took: list[float] = []
    enough = threading.Event()

    def scrape() -> None:
        while not enough.wait(PAUSE):
            start = time.perf_counter()
            scraping.page(site.relay, "127.0.0.1", PORT)
            took.append(time.perf_counter() - start)

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield took
    finally:
        enough.set()
        thread.join()


def figures(took: list[float]) -> dict[str, Any]:
    """Of a row."""
    return {
        "scrapes": len(took),
        "median_seconds": round(median(took), 3),
        "longest_seconds": round(max(took), 3),
    }
