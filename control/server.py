# SPDX-License-Identifier: Apache-2.0
"""The gRPC server: where it listens, what it serves, and how it stops."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from earshot.relay.v1 import relay_pb2 as pb
from earshot.relay.v1 import relay_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from control.config import Config
from control.errors import ConfigError
from control.relay import Relay
from control.requests import Code, RequestError
from control.service import RelayService
from control.status import StatusInterceptor

SERVICE: str = pb.DESCRIPTOR.services_by_name["RelayService"].full_name
STOP_SECONDS = 3.0
_SOCKET_MODE = 0o660

# A full batch is well under 1 MB. Keep-alives find transceivers that vanished without a word.
_OPTIONS = [
    ("grpc.max_receive_message_length", 2 << 20),
    ("grpc.max_send_message_length", 8 << 20),
    ("grpc.max_concurrent_streams", 256),
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
]


@asynccontextmanager
async def serving(relay: Relay, config: Config) -> AsyncIterator[None]:
    """Serves the relay; at the end health goes first, then streams are ended, then the rest is drained.

    Raises:
        ConfigError: nothing can listen there.
    """
    server = grpc.aio.server(interceptors=[StatusInterceptor(SERVICE)], options=_OPTIONS)
    relay_pb2_grpc.add_RelayServiceServicer_to_server(RelayService(relay), server)  # type: ignore[no-untyped-call]
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    _listen(server, config)
    await server.start()
    for service in ("", SERVICE):
        await healthy.set(service, health_pb2.HealthCheckResponse.SERVING)
    try:
        yield
    finally:
        await healthy.enter_graceful_shutdown()
        relay.streams.close_all(RequestError(Code.UNAVAILABLE, "the relay's daemon is stopping"))
        await server.stop(STOP_SECONDS)


def _listen(server: Any, config: Config) -> None:
    path = config.grpc_socket
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        # The mode has to be right from the first moment on.
        before = os.umask(0o777 & ~_SOCKET_MODE)
        try:
            server.add_insecure_port(f"unix:{path}")
        finally:
            os.umask(before)
    except (OSError, RuntimeError) as error:
        raise ConfigError("grpc_socket", f"cannot listen on {path}: {error}") from error
    if config.grpc_listen is not None:
        try:
            server.add_insecure_port(str(config.grpc_listen))
        except RuntimeError as error:
            raise ConfigError("grpc_listen", f"cannot listen on {config.grpc_listen}: {error}") from error
