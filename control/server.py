# SPDX-License-Identifier: Apache-2.0
"""The gRPC server: where it listens, what it serves, and how it stops."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from earshot.relay.v1 import admin_pb2_grpc, relay_pb2_grpc
from earshot.relay.v1 import relay_pb2 as pb
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from control import admin
from control.access import Caller, Policy
from control.admin import AdminService, Operations
from control.callers import caller_of
from control.config import Config
from control.errors import ConfigError
from control.front import Front
from control.limits import CallLimits, LimitInterceptor
from control.metrics.grpc_calls import CallCounter
from control.relay import Relay
from control.replication.group import Group
from control.requests import Code, RequestError
from control.service import RelayService
from control.status import StatusInterceptor
from control.tls import Certificates, TlsFiles

SERVICE: str = pb.DESCRIPTOR.services_by_name["RelayService"].full_name
STOP_SECONDS = 3.0

# The largest batch there can be has 1.32 MB. Keep-alives find transceivers that vanished without a word.
_OPTIONS = [
    ("grpc.max_receive_message_length", 3 << 19),
    ("grpc.max_send_message_length", 8 << 20),
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    # For TLS: a caller that connects and says nothing.
    ("grpc.server_handshake_timeout_ms", 10_000),
]


@dataclass(slots=True)
class Entrance:
    """Who may come in: what is refused there shows in the metrics."""

    limits: CallLimits
    front: Front
    policy: Policy
    calls: CallCounter = dataclasses.field(default_factory=CallCounter)

    @classmethod
    def of(cls, config: Config) -> Entrance:
        """By the configuration."""
        return cls(
            CallLimits(config.max_streams, config.max_streams_per_identity),
            Front(
                config.grpc_socket,
                config.grpc_socket_group,
                most=config.max_streams,
                most_per_user=config.max_streams_per_identity,
            ),
            Policy(config.transceivers),
        )

    def reconfigure(self, config: Config) -> None:
        """Other limits and rights from now on. Streams that are open keep what they were granted."""
        self.limits.limit(config.max_streams, config.max_streams_per_identity)
        self.front.limit(config.max_streams, config.max_streams_per_identity)
        self.policy = Policy(config.transceivers)

    @property
    def refused(self) -> int:
        """Connections and calls that were one too many."""
        return self.limits.refused + self.front.refused


@asynccontextmanager
async def serving(
    relay: Relay, config: Config, entrance: Entrance, operations: Operations
) -> AsyncIterator[None]:
    """Serves the relay; at the end health goes first, then streams are ended, then the rest is drained.

    Raises:
        ConfigError: nothing can listen there.
    """
    front = entrance.front

    def caller(context: Any) -> Caller:
        return caller_of(context, front.peers)

    server = grpc.aio.server(
        interceptors=[
            entrance.calls,
            LimitInterceptor(entrance.limits, caller),
            StatusInterceptor(SERVICE, admin.SERVICE),
        ],
        options=[
            *_OPTIONS,
            # More than a caller may have open: one too many is told so, instead of waiting for its turn.
            ("grpc.max_concurrent_streams", 2 * config.max_streams_per_identity),
            ("grpc.max_allowed_incoming_connections", config.max_streams),
        ],
    )
    service = RelayService(relay, lambda context: entrance.policy.grant(caller(context)))
    relay_pb2_grpc.add_RelayServiceServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)

    async def tell_health() -> None:
        status = health_pb2.HealthCheckResponse
        for name in ("", SERVICE):
            await healthy.set(name, status.NOT_SERVING if relay.unready else status.SERVING)

    async def catch_up(group: Group) -> None:
        await group.has_caught_up.wait()
        await tell_health()

    operator = AdminService(relay, operations, caller, tell_health)
    admin_pb2_grpc.add_AdminServiceServicer_to_server(operator, server)  # type: ignore[no-untyped-call]
    reflection.enable_server_reflection(
        (SERVICE, admin.SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server
    )
    front.prepare()
    _listen(server, front, config)
    await server.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.stop, None)  # where the front cannot serve
        await stack.enter_async_context(front.serving())
        relay.is_reachable = True
        await tell_health()
        if relay.group is not None:
            stack.callback(asyncio.create_task(catch_up(relay.group)).cancel)
        try:
            yield
        finally:
            relay.is_reachable = False
            await healthy.enter_graceful_shutdown()
            relay.streams.close_all(RequestError(Code.UNAVAILABLE, "the relay's daemon is stopping"))
            await server.stop(STOP_SECONDS)


def _listen(server: Any, front: Front, config: Config) -> None:
    try:
        server.add_insecure_port(f"unix:{front.inner}")
    except RuntimeError as error:
        raise ConfigError("grpc_socket", f"cannot listen on {front.inner}: {error}") from error
    if config.grpc_listen is None:
        return
    listen = str(config.grpc_listen)
    try:
        if config.insecure:
            server.add_insecure_port(listen)
        else:
            server.add_secure_port(listen, _certificates(config).credentials())
    except RuntimeError as error:
        raise ConfigError("grpc_listen", f"cannot listen on {listen}: {error}") from error


def _certificates(config: Config) -> Certificates:
    files = {}
    for field in TlsFiles._fields:
        path: Path | None = getattr(config, field)
        if path is None:  # which Config refuses
            raise ConfigError(field, "is missing")
        files[field] = path
    return Certificates(TlsFiles(**files))
