# SPDX-License-Identifier: Apache-2.0
"""The exception tree as gRPC statuses."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from control.errors import ConfigError, DatapathError, EarshotError, MapFullError, UnreachableError
from control.logs import event
from control.requests import RequestError

_STATUSES: dict[int, grpc.StatusCode] = {status.value[0]: status for status in grpc.StatusCode}
_log = logging.getLogger(__name__)


def status_of(error: EarshotError) -> grpc.StatusCode:
    """What a caller is told of an error that ends its call."""
    match error:
        case RequestError():
            return _STATUSES[error.code]
        case MapFullError():
            return grpc.StatusCode.RESOURCE_EXHAUSTED
        case ConfigError():
            return grpc.StatusCode.INVALID_ARGUMENT
        case UnreachableError() | DatapathError():
            return grpc.StatusCode.UNAVAILABLE
    return grpc.StatusCode.INTERNAL


class StatusInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Ends a call of these services with the fitting status when its handler raises."""

    def __init__(self, *services: str) -> None:
        self._prefixes = tuple(f"/{service}/" for service in services)

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        if handler is None or not details.method.startswith(self._prefixes):
            return handler
        # All our handlers are coroutines, those that stream included: one shape fits them.
        make, behaviour = {
            (False, False): (grpc.unary_unary_rpc_method_handler, handler.unary_unary),
            (False, True): (grpc.unary_stream_rpc_method_handler, handler.unary_stream),
            (True, True): (grpc.stream_stream_rpc_method_handler, handler.stream_stream),
        }[handler.request_streaming, handler.response_streaming]
        parse = handler.request_deserializer
        if not handler.request_streaming:
            parse = _forgiving(parse)
        return make(_translated(behaviour, details.method), parse, handler.response_serializer)


_MALFORMED = object()


def _forgiving(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """A single request is parsed before its handler is called, where nobody would catch the error."""

    def forgiving(raw: bytes) -> Any:
        try:
            return parse(raw)
        except DecodeError:
            return _MALFORMED

    return forgiving


def _translated(behaviour: Callable[[Any, Any], Awaitable[Any]], method: str) -> Any:
    async def call(request: Any, context: Any) -> Any:
        try:
            if request is _MALFORMED:
                raise DecodeError
            return await behaviour(request, context)
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "request: cannot be parsed")
        except EarshotError as error:
            await context.abort(status_of(error), str(error))
        except grpc.aio.AbortError:
            raise
        except grpc.aio.InternalError:
            # The caller was gone before all of it was written; there is nobody to tell.
            event(_log, logging.DEBUG, "caller_left", method=method)
        except Exception:  # noqa: BLE001 - a defect of ours ends one call, not the daemon, and shows in the log only
            event(_log, logging.ERROR, "call_failed", method=method, exc_info=True)
            await context.abort(grpc.StatusCode.INTERNAL, "internal error")

    return call
