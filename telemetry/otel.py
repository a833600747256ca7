# SPDX-License-Identifier: Apache-2.0
"""Traces that are recorded, and sent by OTLP over gRPC. Needs the extra `otel`; see telemetry/tracing.py.

Where to, how often and how many of all is what OpenTelemetry's own variables say (OTEL_EXPORTER_OTLP_*,
OTEL_BSP_*, OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from telemetry.tracing import TRACEPARENT, Role, Span, Tracing

CLOSE_SECONDS = 3.0
_KINDS = {
    Role.INTERNAL: trace.SpanKind.INTERNAL,
    Role.SERVER: trace.SpanKind.SERVER,
    Role.CLIENT: trace.SpanKind.CLIENT,
}
_WORDS = TraceContextTextMapPropagator()


class OtelTracing(Tracing):
    """One process's traces; a thread of the library's own sends them."""

    is_on = True

    def __init__(self, service: str, version: str, instance: str) -> None:
        named = Resource(
            {"service.name": service, "service.version": version, "service.instance.id": instance}
        )
        # What the environment says goes before.
        self._provider = TracerProvider(resource=named.merge(OTELResourceDetector().detect()))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("earshot", version)

    def start(
        self,
        name: str,
        traceparent: str = "",
        role: Role = Role.SERVER,
        attributes: Mapping[str, str] | None = None,
    ) -> Span:
        context = _WORDS.extract({TRACEPARENT: traceparent}) if traceparent else Context()
        span = self._tracer.start_span(name, context, _KINDS[role], attributes=attributes)
        return _Recorded(self._tracer, span)

    def close(self) -> None:
        # It waits for a collector that does not answer for longer than we do.
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)


class _Recorded(Span):
    """One that is."""

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self._span = span
        self._context = trace.set_span_in_context(span, Context())
        carrier: dict[str, str] = {}
        _WORDS.inject(carrier, self._context)
        self.traceparent = carrier.get(TRACEPARENT, "")

    def child(self, name: str, role: Role = Role.INTERNAL) -> Span:
        return _Recorded(self._tracer, self._tracer.start_span(name, self._context, _KINDS[role]))

    def end(self, error: str = "") -> None:
        if not self._span.is_recording():
            return
        if error:
            self._span.set_status(trace.StatusCode.ERROR, error)
        self._span.end()
