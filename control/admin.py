# SPDX-License-Identifier: Apache-2.0
"""The gRPC service for operators: who may call it, and its answers (admin.proto)."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from earshot.relay.v1 import admin_pb2 as pb
from earshot.relay.v1 import admin_pb2_grpc

from control import abi
from control.access import Caller
from control.batches import clock
from control.relay import Relay
from control.replication.handover import HandoverError, hand_over
from control.requests import Code, RequestError

SERVICE: str = pb.DESCRIPTOR.services_by_name["AdminService"].full_name


@dataclass(frozen=True)
class Operations:
    """What the daemon can be told to do.

    Attributes:
        reload: reads the configuration again; returns the names of what has changed.
        upgrade: loads the program again; returns its number and how many links it is on.
    """

    reload: Callable[[], Awaitable[list[str]]]
    upgrade: Callable[[], Awaitable[tuple[int, int]]]


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    """Raises RequestError and its like, as RelayService does."""

    def __init__(
        self,
        relay: Relay,
        operations: Operations,
        caller_of: Callable[[Any], Caller],
        tell_health: Callable[[], Awaitable[None]],
    ) -> None:
        """`tell_health` is called when what health says may be something else."""
        self._relay = relay
        self._operations = operations
        self._caller_of = caller_of
        self._tell_health = tell_health

    async def Drain(self, request: pb.DrainRequest, context: Any) -> pb.DrainResponse:
        self._admit(context)
        group = self._relay.group
        if request.handover and (group is None or group.leases is None):
            raise RequestError(Code.FAILED_PRECONDITION, "there is no group_takeover here", "handover")
        self._relay.drain(clock().seconds)
        await self._tell_health()
        relays = []
        if request.handover and group is not None:
            try:
                relays = await hand_over(group)
            except HandoverError as error:
                raise RequestError(Code.UNAVAILABLE, str(error), "handover") from error
        return pb.DrainResponse(state=self._state(), relays=relays)

    async def Undrain(self, request: pb.UndrainRequest, context: Any) -> pb.UndrainResponse:
        self._admit(context)
        self._relay.undrain()
        if self._relay.group is not None and self._relay.group.leases is not None:
            self._relay.group.leases.stay()
        await self._tell_health()
        return pb.UndrainResponse(state=self._state())

    async def GetDrain(self, request: pb.GetDrainRequest, context: Any) -> pb.GetDrainResponse:
        self._admit(context)
        return pb.GetDrainResponse(state=self._state())

    async def Reload(self, request: pb.ReloadRequest, context: Any) -> pb.ReloadResponse:
        self._admit(context)
        return pb.ReloadResponse(changed=await self._operations.reload())

    async def Upgrade(self, request: pb.UpgradeRequest, context: Any) -> pb.UpgradeResponse:
        self._admit(context)
        program_id, links = await self._operations.upgrade()
        return pb.UpgradeResponse(program_id=program_id, links=links)

    async def GetFleet(self, request: pb.GetFleetRequest, context: Any) -> pb.GetFleetResponse:
        self._admit(context)
        return self._relay.fleet()

    def _admit(self, context: Any) -> None:
        caller = self._caller_of(context)
        if not caller.is_local or {"uid:0", f"uid:{os.geteuid()}"}.isdisjoint(caller.identities):
            raise RequestError(
                Code.PERMISSION_DENIED, f"{caller} is neither root nor the daemon's own user on its socket"
            )

    def _state(self) -> pb.DrainState:
        since = self._relay.draining_since
        return pb.DrainState(
            draining=since is not None,
            since_seconds=max(0, int(clock().seconds) - since) if since is not None else 0,
            sessions=self._relay.own_sessions(),
            flows=int(np.count_nonzero(self._relay.datapath.states() == abi.FlowState.LIVE)),
        )
