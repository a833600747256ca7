# SPDX-License-Identifier: Apache-2.0
"""A collector of traces, OTLP over gRPC on a unix socket: it keeps what it is sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc


class Kept(NamedTuple):
    """A span as it was sent; ids as hex, a root's `parent` is empty."""

    service: str
    instance: str
    name: str
    trace: str
    id: str
    parent: str
    error: str
    nanoseconds: int
    attributes: tuple[str, ...]


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """All spans so far."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._lock = threading.Lock()
        self._spans: list[Kept] = []

    @property
    def environment(self) -> Mapping[str, str]:
        """What makes a daemon send its traces here, soon."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"unix:{self._socket}",
            "OTEL_EXPORTER_OTLP_INSECURE": "true",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }

    def spans(self, *names: str) -> list[Kept]:
        """Those of these names, or all."""
        with self._lock:
            return [span for span in self._spans if not names or span.name in names]

    def Export(self, request: pb.ExportTraceServiceRequest, context: Any) -> pb.ExportTraceServiceResponse:
        with self._lock:
            for resource in request.resource_spans:
                named = {one.key: one.value.string_value for one in resource.resource.attributes}
                self._spans += [
                    Kept(
                        named.get("service.name", ""),
                        named.get("service.instance.id", ""),
                        span.name,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        span.status.message,
                        span.end_time_unix_nano - span.start_time_unix_nano,
                        tuple(one.key for one in span.attributes),
                    )
                    for scope in resource.scope_spans
                    for span in scope.spans
                ]
        return pb.ExportTraceServiceResponse()


@contextmanager
def collecting(socket: Path) -> Iterator[Collector]:
    """Serves while the block runs."""
    collector = Collector(socket)
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()
