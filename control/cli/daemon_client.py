# SPDX-License-Identifier: Apache-2.0
"""Asks the daemon itself, over its unix socket, for what only it can do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from control.cli.options import PATH, FailedError
from control.config import Config
from control.settings import environment_name

if TYPE_CHECKING:
    from earshot.relay.v1 import admin_pb2 as pb

DEFAULT_SOCKET = Path(str(Config.__dataclass_fields__["grpc_socket"].default))
TIMEOUT = 30.0  # loading a program takes a second at most


def socket_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--socket",
        "socket_path",
        type=PATH,
        envvar=environment_name("grpc_socket"),
        default=DEFAULT_SOCKET,
        show_default=True,
        show_envvar=True,
        help="earshotd's unix socket, as in its configuration.",
    )(command)


class Daemon:
    """The daemon's service for operators."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub

    def drain(self, handover: bool = False) -> list[str]:
        """The names of the relays that have all calls after a handover."""
        from earshot.relay.v1 import admin_pb2 as pb

        response: pb.DrainResponse = self._stub.Drain(pb.DrainRequest(handover=handover), timeout=TIMEOUT)
        return list(response.relays)

    def undrain(self) -> pb.DrainState:
        from earshot.relay.v1 import admin_pb2 as pb

        response: pb.UndrainResponse = self._stub.Undrain(pb.UndrainRequest(), timeout=TIMEOUT)
        return response.state

    def drain_state(self) -> pb.DrainState:
        """A daemon that is just being restarted is waited for."""
        import grpc
        from earshot.relay.v1 import admin_pb2 as pb

        for last in (False, True):
            try:
                response: pb.GetDrainResponse = self._stub.GetDrain(
                    pb.GetDrainRequest(), timeout=TIMEOUT, wait_for_ready=True
                )
                break
            except grpc.RpcError as error:
                if last or error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
        return response.state

    def fleet(self) -> pb.GetFleetResponse:
        from earshot.relay.v1 import admin_pb2 as pb

        response: pb.GetFleetResponse = self._stub.GetFleet(pb.GetFleetRequest(), timeout=TIMEOUT)
        return response

    def reload(self) -> list[str]:
        from earshot.relay.v1 import admin_pb2 as pb

        return list(self._stub.Reload(pb.ReloadRequest(), timeout=TIMEOUT).changed)

    def upgrade(self) -> pb.UpgradeResponse:
        from earshot.relay.v1 import admin_pb2 as pb

        response: pb.UpgradeResponse = self._stub.Upgrade(pb.UpgradeRequest(), timeout=TIMEOUT)
        return response


@contextmanager
def connected(socket_path: Path) -> Iterator[Daemon]:
    """The daemon behind a socket. What it refuses, or that it is not there, becomes a FailedError."""
    import grpc  # not before it is needed: slow to load
    from earshot.relay.v1 import admin_pb2_grpc

    with grpc.insecure_channel(f"unix:{socket_path}") as channel:
        try:
            yield Daemon(admin_pb2_grpc.AdminServiceStub(channel))  # type: ignore[no-untyped-call]
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAVAILABLE and not socket_path.exists():
                raise FailedError(f"earshotd does not run: {socket_path} is not there") from error
            raise FailedError(error.details()) from error
