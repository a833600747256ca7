# SPDX-License-Identifier: Apache-2.0
"""Traces of what becomes of a registration, by OpenTelemetry; off unless the environment asks for them.

The usual variables decide: an OTLP endpoint (``OTEL_EXPORTER_OTLP_ENDPOINT`` or its twin for traces), or
``OTEL_TRACES_EXPORTER=otlp``, asks for them, ``OTEL_SDK_DISABLED=true`` or ``OTEL_TRACES_EXPORTER=none`` does
not. Nothing of OpenTelemetry is imported before that: what is here does nothing, and costs next to nothing.

A span is handed on by hand, since a call lives in many tasks; to another process as a `traceparent` (W3C
Trace Context). Spans hold no pwd, and no session's id, which is as good as a password for ending it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from enum import Enum
from types import TracebackType

TRACEPARENT = "traceparent"
EXTRA = "earshot[otel]"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_EXPORTER = "OTEL_TRACES_EXPORTER"


class TracingError(Exception):
    """Traces are asked for and cannot be had; `variable` is what asks for them."""

    def __init__(self, variable: str, message: str) -> None:
        super().__init__(f"{variable}: {message}")
        self.variable = variable
        self.message = message


class Role(Enum):
    """Which end of a call between processes a span is."""

    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"


class Span:
    """A stretch of time in a trace; this one is not recorded. As a context, it ends with its block."""

    traceparent = ""  # for whoever goes on with the trace

    def child(self, name: str, role: Role = Role.INTERNAL) -> Span:
        """A part of it."""
        return self

    def end(self, error: str = "") -> None:
        """It is over; `error` says why it came to nothing. Ending it again does nothing."""

    def __enter__(self) -> Span:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(error="" if kind is None else kind.__name__)


NO_SPAN = Span()


class Tracing:
    """Makes spans; this one makes none."""

    is_on = False

    def start(
        self,
        name: str,
        traceparent: str = "",
        role: Role = Role.SERVER,
        attributes: Mapping[str, str] | None = None,
    ) -> Span:
        """A span that goes on with the trace of `traceparent`, or begins one where that is empty or none."""
        return NO_SPAN

    def close(self) -> None:
        """What has not been sent yet is, if somebody takes it within a few seconds."""


@contextmanager
def opened(environment: Mapping[str, str], service: str, version: str, instance: str) -> Iterator[Tracing]:
    """Traces as the environment wants them, while the block runs.

    Raises:
        TracingError: they are asked for, and cannot be had.
    """
    check(environment)
    if not _asks(environment):
        yield Tracing()
        return
    from telemetry.otel import OtelTracing

    tracing = OtelTracing(service, version, instance)
    try:
        yield tracing
    finally:
        tracing.close()


def check(environment: Mapping[str, str]) -> None:
    """Raises TracingError where traces are asked for and cannot be had."""
    variable = _asks(environment)
    if not variable:
        return
    exporter = environment.get(_EXPORTER, "").strip()
    if exporter not in ("", "otlp"):
        raise TracingError(_EXPORTER, f"{exporter!r} is neither otlp nor none")
    for name in _PROTOCOLS:
        if environment.get(name, "").strip() not in ("", "grpc"):
            raise TracingError(name, f"{environment[name]!r} is not grpc, which is what there is")
    try:
        import telemetry.otel  # noqa: F401  # whether it can be
    except ImportError as error:
        raise TracingError(
            variable, f"asks for traces, which are not installed ({error}): pip install '{EXTRA}'"
        ) from error


def _asks(environment: Mapping[str, str]) -> str:
    """The variable that asks for traces; empty: none does."""
    exporter = environment.get(_EXPORTER, "").strip()
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or exporter == "none":
        return ""
    if exporter:
        return _EXPORTER
    return next((name for name in _ENDPOINTS if environment.get(name, "").strip()), "")


@contextmanager
def step(spans: Iterable[Span], name: str) -> Iterator[None]:
    """The block is a part of all these spans."""
    with ExitStack() as children:
        for span in spans:
            children.enter_context(span.child(name))
        yield


def traceparent_in(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """The one among gRPC metadata; empty if there is none."""
    return next((str(value) for name, value in metadata or () if name == TRACEPARENT), "")


def metadata_of(span: Span) -> tuple[tuple[str, str], ...]:
    """What goes with a gRPC call, so that who answers it goes on with the trace."""
    return ((TRACEPARENT, span.traceparent),) if span.traceparent else ()
