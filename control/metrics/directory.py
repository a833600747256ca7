# SPDX-License-Identifier: Apache-2.0
"""Metrics of what the relays of a region tell each other."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client.core import Metric

from control.directory.directory import Directory
from control.directory.errors import Refusal
from control.metrics import catalogue


class DirectoryCollector:
    """Scraped as RelayCollector is. Without a directory everything is zero."""

    def __init__(self, directory: Directory | None) -> None:
        self._directory = directory

    def collect(self) -> Iterator[Metric]:
        directory = self._directory
        yield catalogue.DIRECTORY_CONFIGURED.one(float(directory is not None))
        counts = directory.refusals.counts if directory is not None else {}
        yield catalogue.DIRECTORY_REFUSED.of({(why.value,): counts.get(why, 0) for why in Refusal})
        link = directory.link if directory is not None else None
        yield catalogue.DIRECTORY_UP.one(float(link is not None and link.is_up))
        yield catalogue.DIRECTORY_FAILURES.one(link.failures if link is not None else 0)
        members = directory.members if directory is not None else None
        delay = members.delay(time.monotonic()) if members is not None else 0.0
        yield catalogue.DIRECTORY_LAG.one(delay)
        yield catalogue.DIRECTORY_RELAYS.one(len(members.living()) if members is not None else 0)
        yield catalogue.DIRECTORY_NAME_DISPUTED.one(
            float(directory is not None and directory.presence.is_disputed)
        )
        yield from self._sessions(directory)

    def _sessions(self, directory: Directory | None) -> Iterator[Metric]:
        counts = {"here": 0, "elsewhere": 0, "silent": 0}
        if directory is not None:
            mirrors = [one for one in list(directory.mirrors.by_name.values()) if one.owner is not None]
            counts["here"] = len(directory.homes.by_name)
            counts["silent"] = sum(one.silent_since is not None for one in mirrors)
            counts["elsewhere"] = len(mirrors) - counts["silent"]
        yield catalogue.DIRECTORY_TRANSCEIVERS.of({(where,): count for where, count in counts.items()})
        homes = directory.homes if directory is not None else None
        mirrors_of = directory.mirrors if directory is not None else None
        yield catalogue.DIRECTORY_QUEUED.one(homes.queued if homes is not None else 0)
        yield catalogue.DIRECTORY_PENDING.one(mirrors_of.pending if mirrors_of is not None else 0)
        yield catalogue.DIRECTORY_CHANGES.of(
            {
                ("told",): homes.written if homes is not None else 0,
                ("heard",): mirrors_of.entered if mirrors_of is not None else 0,
            }
        )
        yield catalogue.DIRECTORY_STATES_READ.one(mirrors_of.read if mirrors_of is not None else 0)
