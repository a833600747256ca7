# SPDX-License-Identifier: Apache-2.0
"""Flows as the CLI shows them, column by column: there may be a million, and each costs microseconds."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from ipaddress import ip_address
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from control import abi
from control.addresses import IPAddress, format_endpoint, from_bytes, parse_endpoint, to_bytes
from control.cli.output import Row
from control.cli.session_table import SessionTable
from control.flows import Clock, FlowTable, flow_id, idle_ticks, in_state, milliseconds_of
from control.records import backend_endpoint

Records = NDArray[np.void]
Numbers = NDArray[np.uint32]

# Not BINDING: the record is still being filled then, for less than a microsecond.
SHOWN_STATES = (abi.FlowState.LIVE, abi.FlowState.SUPERSEDED, abi.FlowState.DEAD)
_STATE_MASK = (1 << abi.FLOW_STATE_BITS) - 1
_CHUNK = 4096


class Client(NamedTuple):
    """A client to look for: by its address, with any of its ports or with one."""

    address: IPAddress
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Client:
        """ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT. Raises ValueError."""
        try:
            return cls(ip_address(text))
        except ValueError:
            return cls(*parse_endpoint(text))


def shown(flows: Records) -> Numbers:
    """The records that hold a flow, the oldest first."""
    numbers = in_state(flows["state"], *SHOWN_STATES)
    return numbers[np.argsort(flows["state"][numbers] >> abi.FLOW_STATE_BITS, kind="stable")]


def of_sessions(flows: Records, numbers: Numbers, sessions: NDArray[np.uint32]) -> Numbers:
    """Those of the records that belong to one of these sessions, by number."""
    return numbers[np.isin(flows["session"][numbers], sessions)]


def of_client(flows: Records, numbers: Numbers, client: Client) -> Numbers:
    """Those of the records whose client is this one."""
    words = np.frombuffer(to_bytes(client.address), np.uint64)
    held = np.ascontiguousarray(flows["client_addr"][numbers]).view(np.uint64).reshape(-1, 2)
    hits: NDArray[np.bool_] = (held == words).all(axis=1)
    if client.port is not None:
        hits &= flows["client_port"][numbers] == client.port
    return numbers[hits]


def find(flows: Records, wanted: int) -> Numbers:
    """The record of a flow's id; empty if there is no such flow, or not any more."""
    number = wanted & 0xFFFFFFFF
    if number >= len(flows):
        return np.empty(0, np.uint32)
    state = int(flows["state"][number])
    there = flow_id(number, state) == wanted and state & _STATE_MASK in SHOWN_STATES
    return np.array([number] if there else [], np.uint32)


def client_of(record: np.void) -> str:
    """The client's address and port, as people write them."""
    return format_endpoint(from_bytes(record["client_addr"].tobytes()), int(record["client_port"]))


def rows(table: FlowTable, numbers: Numbers, sessions: SessionTable, now: Clock) -> Iterator[Row]:
    """These records as JSON shows them, without those that became free meanwhile."""

    @cache
    def backend(number: int) -> str | None:
        record = table.backends[number]
        return str(backend_endpoint(record)) if record["port"] else None

    vips = dict(enumerate(map(str, table.vips)))
    for start in range(0, len(numbers), _CHUNK):
        chunk = numbers[start : start + _CHUNK]
        records = table.flows[chunk]
        still = in_state(records["state"], *SHOWN_STATES)
        records, chunk = records[still], chunk[still]
        for number, record, name, idle in zip(
            chunk.tolist(),
            _plain(records),
            sessions.names(records["session"]),
            idle_ticks(records, np.arange(len(records), dtype=np.uint32), now.ticks).tolist(),
            strict=True,
        ):
            state = record["state"]
            yield {
                # Text: it may pass 2^53, from where on many JSON parsers round.
                "flow_id": str(flow_id(number, state)),
                "state": abi.FlowState(state & _STATE_MASK).name.lower(),
                "transceiver": name[0],
                "session_id": name[1],
                "client": format_endpoint(from_bytes(record["client_addr"]), record["client_port"]),
                "vip": vips.get(record["vip"]),
                "relay": str(table.relay_endpoint(number)),
                "backend": backend(record["backend"]),
                "to_transceiver_packets": record["up_packets"],
                "to_transceiver_bytes": record["up_bytes"],
                "to_client_packets": record["down_packets"],
                "to_client_bytes": record["down_bytes"],
                "age_seconds": max(0, int(now.seconds) - (state >> abi.FLOW_STATE_BITS)),
                "idle_milliseconds": milliseconds_of(idle),
            }


def _plain(records: Records) -> Iterator[dict[str, Any]]:
    """Records as dicts of Python's own numbers and bytes: far faster than field by field."""
    names = records.dtype.names or ()
    for values in records.tolist():
        yield dict(zip(names, values, strict=True))
