# SPDX-License-Identifier: Apache-2.0
"""Flows as the CLI shows them, column by column: there may be a million, and each costs microseconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from control import abi
from control.addresses import IPAddress, format_endpoint, from_bytes, parse_endpoint, to_bytes
from control.cli import address_cells, cells
from control.cli.fields import Chunk, Texts, rows_of
from control.cli.fields import Numbers as Count
from control.cli.output import Row
from control.cli.session_table import SessionTable
from control.flows import Clock, FlowTable, flow_id, idle_ticks, in_state
from control.layout import Layout

Records = NDArray[np.void]
Numbers = NDArray[np.uint32]

# Not BINDING: the record is still being filled then, for less than a microsecond.
SHOWN_STATES = (abi.FlowState.LIVE, abi.FlowState.SUPERSEDED, abi.FlowState.DEAD)
_STATE_MASK = (1 << abi.FLOW_STATE_BITS) - 1
_CHUNK = 4096


class ShownTable(FlowTable, Protocol):
    """What of the datapath it takes to show flows."""

    @property
    def layout(self) -> Layout: ...
    @property
    def relays(self) -> Sequence[IPAddress]: ...


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


def chunks(table: ShownTable, numbers: Numbers, sessions: SessionTable, now: Clock) -> Iterator[Chunk]:
    """These records as JSON shows them, some thousands at a time, without those that became free since."""
    vips = cells.texts([str(vip).encode() for vip in table.vips] or [b""])
    # Without the port, which follows.
    relays = cells.texts([format_endpoint(relay, 0)[:-1].encode() for relay in table.relays] or [b""])
    layout = table.layout
    for start in range(0, len(numbers), _CHUNK):
        chunk = numbers[start : start + _CHUNK]
        records = table.flows[chunk]
        still = in_state(records["state"], *SHOWN_STATES)
        records, chunk = records[still], chunk[still]
        if not len(chunk):
            continue
        states = records["state"]
        bound = states >> np.uint32(abi.FLOW_STATE_BITS)
        transceiver, session_id = sessions.named(records["session"])
        backends = table.backends[records["backend"]]
        relay = np.minimum(chunk // np.uint32(layout.span), np.uint32(len(relays) - 1))
        port = cells.decimal(layout.port_min + chunk % np.uint32(layout.span))
        idle = idle_ticks(records, np.arange(len(records), dtype=np.uint32), now.ticks).astype(np.uint64)
        yield {
            # Text: it may pass 2^53, from where on many JSON parsers round.
            "flow_id": Texts(cells.decimal(bound.astype(np.uint64) << np.uint64(32) | chunk)),
            "state": Texts(cells.of_each(states & np.uint32(_STATE_MASK), _state)),
            "transceiver": transceiver,
            "session_id": session_id,
            "client": Texts(address_cells.endpoints(records["client_addr"], records["client_port"])),
            "vip": Texts(vips[np.minimum(records["vip"], len(vips) - 1)], records["vip"] < len(table.vips)),
            "relay": Texts(cells.joined([relays[relay], port], len(chunk))),
            "backend": Texts(
                address_cells.endpoints(backends["addr"], backends["port"]), backends["port"] != 0
            ),
            "to_transceiver_packets": Count(records["up_packets"]),
            "to_transceiver_bytes": Count(records["up_bytes"]),
            "to_client_packets": Count(records["down_packets"]),
            "to_client_bytes": Count(records["down_bytes"]),
            "age_seconds": Count(np.maximum(0, int(now.seconds) - bound.astype(np.int64))),
            "idle_milliseconds": Count((idle << np.uint64(abi.FLOW_TICK_SHIFT)) // np.uint64(1_000_000)),
        }


def rows(table: ShownTable, numbers: Numbers, sessions: SessionTable, now: Clock) -> Iterator[Row]:
    """The same as objects, for where there are few."""
    return rows_of(chunks(table, numbers, sessions, now))


def _state(state: int) -> str:
    return abi.FlowState(state).name.lower()
