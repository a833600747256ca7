# SPDX-License-Identifier: Apache-2.0
"""Tells transceivers of flows that were bound and flows that ended.

Column by column, and only where somebody has room for it: a flow takes longer to describe than to end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from ipaddress import IPv6Address
from socket import inet_ntoa
from typing import NamedTuple

import numpy as np
from earshot.relay.v1 import relay_pb2 as pb

from control import abi
from control.flows import (
    Clock,
    FlowTable,
    Numbers,
    endpoint_message,
    flow_id,
    idle_ticks,
    milliseconds_of,
)
from control.model import Session, SessionName
from control.records import endpoint_of
from control.sessions import Registry
from control.streams import Streams
from control.sweep import Snapshot, parts

# Flows that are described in one step: some 3 ms.
PART = 256
_MAPPED = bytes(10) + b"\xff\xff"


class Ended(NamedTuple):
    """Flows that ended for a reason, and their sessions at that moment."""

    numbers: Numbers
    sessions: Sequence[Session | None]
    reason: pb.FlowEndReason


class Reports:
    """Puts events together. Records keep their fields for as long as they are in quarantine."""

    def __init__(self, table: FlowTable, registry: Registry, streams: Streams) -> None:
        self._table = table
        self._registry = registry
        self._streams = streams

    def bound(self, bound: Snapshot, clock: Callable[[], Clock]) -> Iterator[None]:
        """Of flows that are still bound. A step up to each yield."""
        if self._streams.is_empty:
            return
        for part in range(0, len(bound.numbers), PART):
            some = Snapshot(*(column[part : part + PART] for column in bound))
            numbers = some.unchanged(self._table.flows)
            sessions = [self._registry.session(one) for one in self._table.flows["session"][numbers].tolist()]
            for session, flow in self._described(numbers, sessions, clock()):
                event = pb.AttachResponse(flow_bound=pb.FlowBound(flow=flow))
                self._streams.publish(session.owner, event)
            yield

    def ended(self, ended: Ended, clock: Callable[[], Clock]) -> Iterator[None]:
        """Of flows that have ended. A step up to each yield."""
        if self._streams.is_empty:
            return
        for start, part in zip(range(0, len(ended.numbers), PART), parts(ended.numbers, PART), strict=True):
            sessions = ended.sessions[start : start + PART]
            for session, flow in self._described(part, sessions, clock()):
                event = pb.AttachResponse(flow_ended=pb.FlowEnded(flow=flow, reason=ended.reason))
                self._streams.publish(session.owner, event)
            yield

    def _described(
        self, numbers: Numbers, sessions: Sequence[Session | None], now: Clock
    ) -> Iterator[tuple[Session, pb.Flow]]:
        """The flows that somebody is to be told of."""
        told = [
            (position, session)
            for position, session in enumerate(sessions)
            if session is not None and self._streams.admits(session.owner)
        ]
        if not told:
            return iter(())
        chosen = numbers[[position for position, _ in told]]
        names = [self._registry.name_of(session) for _, session in told]
        flows = flow_messages(self._table, chosen, names, now)
        return zip((session for _, session in told), flows, strict=True)


def flow_messages(
    table: FlowTable, numbers: Numbers, names: Sequence[SessionName], now: Clock
) -> Iterator[pb.Flow]:
    """Records as the API shows them; `names`: of the session of each."""

    @cache
    def backend(number: int) -> pb.Endpoint:
        return endpoint_message(endpoint_of(table.backends[number]))

    records = table.flows[numbers]
    vips = dict(enumerate(map(endpoint_message, table.vips)))
    columns = (records[field].tolist() for field in _FIELDS)
    idle = idle_ticks(records, np.arange(len(records), dtype=np.uint32), now.ticks).tolist()
    for number, name, ticks, state, address, port, vip, to, up, up_bytes, down, down_bytes in zip(
        numbers.tolist(), names, idle, *columns, strict=True
    ):
        relay = table.relay_endpoint(number)
        yield pb.Flow(
            flow_id=flow_id(number, state),
            session_id=name.session_id,
            transceiver=name.transceiver,
            client=pb.Endpoint(address=_address(address), port=port),
            vip=vips.get(vip),
            relay=pb.Endpoint(address=str(relay.address), port=relay.port),
            backend=backend(to),
            age_seconds=max(0, int(now.seconds) - (state >> abi.FLOW_STATE_BITS)),
            idle_milliseconds=milliseconds_of(ticks),
            to_transceiver_packets=up,
            to_transceiver_bytes=up_bytes,
            to_client_packets=down,
            to_client_bytes=down_bytes,
        )


_FIELDS = (
    "state",
    "client_addr",
    "client_port",
    "vip",
    "backend",
    "up_packets",
    "up_bytes",
    "down_packets",
    "down_bytes",
)


def _address(raw: bytes) -> str:
    return inet_ntoa(raw[12:]) if raw.startswith(_MAPPED) else str(IPv6Address(raw))
