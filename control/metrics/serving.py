# SPDX-License-Identifier: Apache-2.0
"""Serves /metrics and /readyz over HTTP, from threads of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol
from wsgiref.types import StartResponse, WSGIApplication

from prometheus_client import ProcessCollector, start_http_server
from prometheus_client.core import CollectorRegistry, Metric
from prometheus_client.registry import Collector

from control.config import ListenAddress
from control.errors import ConfigError


class Source(Protocol):
    """Whoever has metrics. Asked by one thread at a time, but not by the daemon's own."""

    def collect(self) -> Iterator[Metric]: ...


class _Gate(Collector):
    """All sources, one scrape at a time, for as long as there is something to read."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._lock = threading.Lock()
        self._closed = False

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            if self._closed:
                return
            for source in self._sources:
                yield from source.collect()

    def close(self) -> None:
        """Nobody reads the maps any more: they may be unmapped."""
        with self._lock:
            self._closed = True


def _with_readiness(metrics: WSGIApplication | None, unready: Callable[[], str]) -> WSGIApplication:
    assert metrics is not None

    def answered(environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        if environ.get("PATH_INFO") != "/readyz":
            return metrics(environ, start)
        reason = unready()
        start("503 Service Unavailable" if reason else "200 OK", [("Content-Type", "text/plain")])
        return [f"{reason or 'ready'}\n".encode()]

    return answered


@contextmanager
def serving(
    sources: Sequence[Source], listen: ListenAddress | None, unready: Callable[[], str]
) -> Iterator[None]:
    """Serves while the block runs; None: not at all.

    `unready`, called by other threads, says why /readyz is to answer 503; empty: 200.

    Raises:
        ConfigError: nothing can listen there.
    """
    if listen is None:
        yield
        return
    gate = _Gate(sources)
    registry = CollectorRegistry()
    registry.register(gate)
    ProcessCollector(registry=registry)
    try:
        server, thread = start_http_server(listen.port, listen.host, registry)
    except OSError as error:
        raise ConfigError("metrics_listen", f"cannot listen on {listen}: {error.strerror}") from error
    server.set_app(_with_readiness(server.get_app(), unready))
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)
        gate.close()
