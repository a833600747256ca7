# SPDX-License-Identifier: Apache-2.0
"""Counts gRPC calls by method and status."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from prometheus_client.core import Metric

from control.metrics import catalogue

# Whoever calls what does not exist makes up its name.
UNKNOWN_METHOD = "unknown"


class CallCounter(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """The outermost of all interceptors: it sees what the others refuse."""

    def __init__(self) -> None:
        self._ended = catalogue.GRPC_CALLS.counting()
        self._open = catalogue.GRPC_OPEN.gauging()
        self._seconds = catalogue.GRPC_SECONDS.observing()

    def collect(self) -> Iterator[Metric]:
        """From any thread."""
        for one in (self._ended, self._open, self._seconds):
            yield from one.collect()

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        if handler is None:
            self._ended.labels(UNKNOWN_METHOD, grpc.StatusCode.UNIMPLEMENTED.name).inc()
            return None
        shape = f"{_ARITY[handler.request_streaming]}_{_ARITY[handler.response_streaming]}"
        make = getattr(grpc, f"{shape}_rpc_method_handler")
        counted = self._counted(getattr(handler, shape), details.method, not handler.request_streaming)
        return make(counted, handler.request_deserializer, handler.response_serializer)

    def _counted(self, behaviour: Any, method: str, timed: bool) -> Any:
        if inspect.isasyncgenfunction(behaviour):

            async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
                watched = _Watched(context)
                with self._one(method, timed, watched):
                    async for response in behaviour(request, watched):
                        yield response

            return stream

        async def call(request: Any, context: Any) -> Any:
            watched = _Watched(context)
            with self._one(method, timed, watched):
                return await behaviour(request, watched)

        return call

    @contextmanager
    def _one(self, method: str, timed: bool, context: _Watched) -> Iterator[None]:
        self._open.labels(method).inc()
        started = time.perf_counter()
        otherwise = grpc.StatusCode.UNKNOWN
        try:
            yield
            otherwise = grpc.StatusCode.OK
        except (asyncio.CancelledError, GeneratorExit):
            otherwise = grpc.StatusCode.CANCELLED
            raise
        finally:
            # In this order: who is scraped in between, in a thread of its own, shows no call that is nowhere.
            self._ended.labels(method, (context.aborted or otherwise).name).inc()
            self._open.labels(method).dec()
            if timed:
                self._seconds.labels(method).observe(time.perf_counter() - started)


class _Watched:
    """A call's context that remembers what the call was aborted with: gRPC's own does not tell."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self.aborted: grpc.StatusCode | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def abort(self, code: grpc.StatusCode, *arguments: Any, **named: Any) -> None:
        self.aborted = code
        await self._context.abort(code, *arguments, **named)


_ARITY = {False: "unary", True: "stream"}
