# SPDX-License-Identifier: Apache-2.0
"""How many calls may be open at a time, in all and of each caller."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from control.access import Caller
from control.requests import Code, RequestError
from control.status import status_of


class CallLimits:
    """Counts open calls.

    Attributes:
        refused: calls that were one too many.
    """

    def __init__(self, most: int, most_per_caller: int) -> None:
        self.refused = 0
        self.limit(most, most_per_caller)
        self._open: Counter[Caller] = Counter()

    def limit(self, most: int, most_per_caller: int) -> None:
        """Other limits from now on; calls that are open go on."""
        self._most = most
        self._most_per_caller = most_per_caller

    @contextmanager
    def counted(self, caller: Caller) -> Iterator[None]:
        """One more call is open while the block runs.

        Raises:
            RequestError: RESOURCE_EXHAUSTED.
        """
        if self._open[caller] >= self._most_per_caller:
            self.refused += 1
            raise RequestError(
                Code.RESOURCE_EXHAUSTED,
                f"{caller} has {self._most_per_caller} calls open already (max_streams_per_identity)",
            )
        if self._open.total() >= self._most:
            self.refused += 1
            raise RequestError(Code.RESOURCE_EXHAUSTED, f"{self._most} calls are open already (max_streams)")
        self._open[caller] += 1
        try:
            yield
        finally:
            self._open[caller] -= 1
            if not self._open[caller]:
                del self._open[caller]


class LimitInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Holds every call of every service to the limits: those of health and reflection, too."""

    def __init__(self, limits: CallLimits, caller_of: Callable[[Any], Caller]) -> None:
        """`caller_of` makes a caller of a call's context; it raises RequestError for a stranger."""
        self._limits = limits
        self._caller_of = caller_of

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        if handler is None:
            return None
        shape = f"{_ARITY[handler.request_streaming]}_{_ARITY[handler.response_streaming]}"
        make = getattr(grpc, f"{shape}_rpc_method_handler")
        behaviour = self._limited(getattr(handler, shape))
        return make(behaviour, handler.request_deserializer, handler.response_serializer)

    def _limited(self, behaviour: Any) -> Any:
        if inspect.isasyncgenfunction(behaviour):

            async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
                try:
                    with self._limits.counted(self._caller_of(context)):
                        async for response in behaviour(request, context):
                            yield response
                except RequestError as error:
                    await context.abort(status_of(error), str(error))

            return stream

        async def call(request: Any, context: Any) -> Any:
            try:
                with self._limits.counted(self._caller_of(context)):
                    return await behaviour(request, context)
            except RequestError as error:
                await context.abort(status_of(error), str(error))

        return call


_ARITY = {False: "unary", True: "stream"}
