# SPDX-License-Identifier: Apache-2.0
"""The program and the model side by side, in the same state: what one does, the other must do."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, IPv6Network

import numpy as np

from control import abi
from control.addresses import IPAddress, to_bytes
from control.libbpf import Array
from tests.bpf import world
from tests.bpf.differential.stored import (
    NOT_SEEN,
    RESOLVED,
    Facts,
    as_stored,
    peek,
    read_fib,
    read_record,
    stored_key,
    stored_prefix,
    stored_sessions,
    used_rows,
)
from tests.bpf.rig import Rig
from tests.model.budget import SECOND, Budget, prefix_of
from tests.model.relay import THIS_CPU, Decision, Relay
from tests.model.state import Backend, Endpoint, Hop, Life, Link, Record, Session, State

_CLOCK_MONOTONIC_COARSE = 6
LONG = 600 * SECOND


@dataclass(frozen=True)
class Given:
    """A flow that is there before the first packet."""

    number: int
    record: Record
    indexed: bool = True


@dataclass(frozen=True)
class Start:
    """The state in which packets begin to arrive, where it is not that of the world."""

    flows: Sequence[Given] = ()
    free4: Sequence[int] = world.V4.free
    free6: Sequence[int] = world.V6.free
    free_hops: Sequence[int] = world.FREE_HOPS
    sessions: Mapping[bytes, Session] = field(default_factory=dict)  # beside the usual ones
    tokens: Mapping[bytes, int] = field(default_factory=dict)  # left of sessions' budgets, by ufrag
    spent_sources: Sequence[IPAddress] = ()
    is_cpu_spent: bool = False


class Twin:
    """Runs each frame through both. Its methods are for inside the relay host.

    Budgets of sources and of the CPU are far larger than what a few packets take: they begin full, or spent.
    """

    def __init__(self, rig: Rig, sessions: Mapping[bytes, Session]) -> None:
        self.rig = rig
        self._usual_sessions = dict(sessions)
        self._usual_stored = stored_sessions(sessions)
        self._other_sessions = stored_sessions({})[0]
        self._fib = read_fib(rig)
        rig.reset()
        datapath = rig.datapath
        datapath.delete_sessions(datapath.read_sessions()[0])
        self._usual_hops = datapath.hops.copy()
        self._names = {number: link for link, number in rig.ifindex.items()}
        self.prepare(Start())

    # ---- before a packet -----------------------------------------------------------------

    def prepare(self, start: Start) -> State:
        """Lets both begin anew."""
        datapath = self.rig.datapath
        datapath.flows[:] = np.zeros(1, abi.FLOW)[0]
        datapath.hops[:] = self._usual_hops
        for index in (datapath.flow_index, datapath.hop_index):
            index.delete_many(index.read()[0])
        self.rig.set_free_flows(4, *start.free4)
        self.rig.set_free_flows(6, *start.free6)
        self.rig.set_free_hops(*start.free_hops)
        self.rig.sources.delete_many(self.rig.sources.read()[0])
        self.rig.put_cpu_budget(0)
        datapath.delete_sessions(self._other_sessions)
        datapath.put_sessions(*self._usual_stored)  # their budgets are whole again
        self._other_sessions, others = stored_sessions(start.sessions)
        datapath.put_sessions(self._other_sessions, others)
        self.state = State(
            vips=[Endpoint(*vip) for vip in world.VIPS],
            relays=list(world.RELAYS),
            ports=range(world.PORTS.first, world.PORTS.last + 1),
            port_bits=world.PORT_BITS,
            links={link: Link(world.LINK_MACS[link], world.MTU) for link in (world.CLIENTS, world.BACKENDS)},
            fib=self._fib,
            sessions=self._usual_sessions | dict(start.sessions),
            backends={
                number: Backend(Endpoint(*endpoint), world.BACKEND_HOPS[number])
                for number, endpoint in world.BACKEND_ENDPOINTS.items()
            },
            hops={number: self._read_hop(datapath.hops[number]) for number in used_rows(datapath.hops)},
            hops_max=abi.HOP_MAX,
            records=[Record() for _ in datapath.flows],
            free_records={4: deque(start.free4), 6: deque(start.free6)},
            free_hops=deque(start.free_hops),
        )
        for given in start.flows:
            self._put_flow(given)
        self._put_budgets(start)
        self.relay = Relay(self.state)
        self._counters = self._read_counters()
        return self.state

    def _put_budgets(self, start: Start) -> None:
        """Those that are spent stay so for longer than a case takes."""
        state, now = self.state, clock()
        state.clock = clock
        state.source_budget = Budget(2 * world.SOURCE_REQUESTS_PER_SECOND, 2)
        state.session_budget = Budget(world.FLOWS_PER_SESSION, world.FLOW_IDLE_SECONDS)
        state.binding_budget = Budget(2 * world.BINDINGS_PER_SECOND, 2)
        state.exempt = list(world.SOURCE_EXEMPT)
        for address in start.spent_sources:
            state.source_budget.bucket(prefix_of(address), now).credit = -LONG
            self.rig.put_source_budget(address, now + 2 * SECOND + LONG)
        if start.is_cpu_spent:
            state.binding_budget.bucket(THIS_CPU, now).credit = -LONG
            self.rig.put_cpu_budget(now + 2 * SECOND + LONG)
        for ufrag, tokens in start.tokens.items():
            bucket = state.session_budget.bucket(ufrag, now)
            missing = (bucket.tokens - tokens) * bucket.interval
            bucket.credit -= missing
            self.rig.put_session_budget(ufrag, now + missing)

    def _put_flow(self, given: Given) -> None:
        record = given.record
        assert record.key is not None
        self.state.records[given.number] = replace(record, up=replace(record.up), down=replace(record.down))
        flows = self.rig.datapath.flows
        for name, value in as_stored(self.state, given.number, record).items():
            flows[name][given.number] = value
        if given.indexed:
            provisional = record.life is Life.PROVISIONAL
            (self.state.provisional if provisional else self.state.index)[record.key] = given.number
            self.rig.put_index(stored_key(record.key, provisional), given.number)

    # ---- a packet ------------------------------------------------------------------------

    def send(self, frame: bytes, link: str) -> Decision:
        """Lets a frame come in by a link of both; AssertionError if they differ in anything."""
        flows = self.rig.datapath.flows
        flows["last_seen"][flows["state"] != 0] = NOT_SEEN
        said = self.relay.handle(frame, link)
        ran = self.rig.send(frame, link)
        expected: Facts = {
            "action": said.action,
            "counted": f"{said.reason}: 1 packet, {said.counted} bytes",
            "frame": said.frame.hex(),
            **self._model_facts(),
        }
        actual: Facts = {
            "action": ran.action,
            "counted": self._newly_counted(),
            "frame": ran.data.hex(),
            **self._program_facts(),
        }
        differences = list(_differences(expected, actual))
        if differences:
            heading = [
                f"the program differs from the model, on a frame that came by {link}:",
                f"  {frame.hex()}",
                f"model: {said.action}, {said.reason}; {'; '.join(said.changes) or 'no change of state'}",
            ]
            raise AssertionError("\n".join([*heading, *differences]))
        return said

    # ---- what the model holds, and what the maps hold ------------------------------------

    def _model_facts(self) -> Facts:
        state = self.state
        facts: Facts = {
            "index": {
                stored_key(key, provisional): number
                for provisional, index in ((False, state.index), (True, state.provisional))
                for key, number in index.items()
            },
            "hop index": {
                (to_bytes(address), link): number for (address, link), number in state.hop_index.items()
            },
            "free records 4": list(state.free_records[4]),
            "free records 6": list(state.free_records[6]),
            "free hops": list(state.free_hops),
        }
        facts["sources"] = {
            stored_prefix(prefix): "charged"
            for prefix in state.source_budget.buckets
            if isinstance(prefix, IPv4Network | IPv6Network)
        }
        # Tokens that are missing: each takes minutes to come back.
        facts["session budgets"] = {
            str(ufrag): round(bucket.tokens - bucket.credit / bucket.interval)
            for ufrag, bucket in state.session_budget.buckets.items()
            if bucket.credit < (bucket.tokens - 0.5) * bucket.interval
        }
        for number, record in enumerate(state.records):
            if record.key is not None or record.life is not Life.FREE:
                facts[f"record {number}"] = as_stored(state, number, record) | {"seen": record.seen}
        for number, hop in state.hops.items():
            facts[f"hop {number}"] = hop
        return facts

    def _program_facts(self) -> Facts:
        datapath = self.rig.datapath
        hop_keys, hop_numbers = datapath.hop_index.read()
        facts: Facts = {
            "index": {
                key.tobytes(): int(number) for key, number in zip(*datapath.flow_index.read(), strict=True)
            },
            "hop index": {
                (key["neighbour"].tobytes(), self._names[int(key["ifindex"])]): int(number)
                for key, number in zip(hop_keys, hop_numbers, strict=True)
            },
            "free records 4": peek(self.rig.free_flows[4]),
            "free records 6": peek(self.rig.free_flows[6]),
            "free hops": peek(datapath.free_hops),
        }
        facts["sources"] = {key.tobytes(): "charged" for key in self.rig.sources.read()[0]}
        now = clock()
        facts["session budgets"] = {
            str(bytes(key["ufrag"])): round((int(session["full_at"]) - now) / world.SESSION_INTERVAL)
            for key, session in zip(*datapath.read_sessions(), strict=True)
            if session["full_at"] > now
        }
        flows = datapath.flows
        for number in used_rows(flows):
            facts[f"record {number}"] = read_record(flows[number])
        for number in used_rows(datapath.hops):
            facts[f"hop {number}"] = self._read_hop(datapath.hops[number])
        return facts

    def _read_hop(self, row: np.void) -> Hop:
        link = self._names.get(int(row["ifindex"]), "")
        resolved = next(mine for mine, stored in RESOLVED.items() if stored == row["resolved"])
        return Hop(link, row["smac"].tobytes(), row["dmac"].tobytes(), int(row["mtu"]), resolved)

    def _newly_counted(self) -> str:
        new = self._read_counters()
        moved = new - self._counters
        self._counters = new
        return ", ".join(
            f"{abi.Reason(number).name.lower()}: {moved[number][0]} packet, {moved[number][1]} bytes"
            for number in np.flatnonzero(moved.any(axis=1)).tolist()
        )

    def _read_counters(self) -> Array:
        """Packets and bytes by reason."""
        reasons = self.rig.datapath.reasons()
        return np.stack((reasons["packets"], reasons["bytes"]), axis=1).astype(np.int64)


def _differences(expected: Facts, actual: Facts, of: str = "") -> Iterator[str]:
    """Of all facts that are not the same, one entry each."""
    for name in expected | actual:
        said, did = expected.get(name, "none"), actual.get(name, "none")
        if isinstance(said, dict) and isinstance(did, dict):
            yield from _differences(said, did, f"{of}{name}, ")
        elif said != did:
            yield f"  {of}{name}:\n    model:   {said}\n    program: {did}"


def clock() -> int:
    """The program's, in ns."""
    return time.clock_gettime_ns(_CLOCK_MONOTONIC_COARSE)
