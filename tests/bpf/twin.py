# SPDX-License-Identifier: Apache-2.0
"""The program and the model side by side, in the same state: what one does, the other must do."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

import numpy as np

from control import abi
from control.addresses import IPAddress, to_bytes
from control.datapath import STATE_MASK
from control.hmac_keys import key_states
from control.libbpf import Array
from control.maps import Queue
from tests.bpf import world
from tests.bpf.rig import Rig, delta, source_key
from tests.model.budget import SECOND, Budget, prefix_of
from tests.model.fib import Fib, Route, Rule
from tests.model.relay import THIS_CPU, Decision, Relay
from tests.model.state import (
    Backend,
    Endpoint,
    FlowKey,
    Hop,
    Life,
    Link,
    Record,
    Resolved,
    Session,
    State,
)

_LIVES = {
    Life.FREE: abi.FlowState.FREE,
    Life.BINDING: abi.FlowState.BINDING,
    Life.LIVE: abi.FlowState.LIVE,
    Life.SUPERSEDED: abi.FlowState.SUPERSEDED,
    Life.DEAD: abi.FlowState.DEAD,
    Life.PROVISIONAL: abi.FlowState.PROVISIONAL,
}
_RESOLVED = {
    Resolved.NO: abi.HopState.UNRESOLVED,
    Resolved.YES: abi.HopState.RESOLVED,
    Resolved.PROVISIONALLY: abi.HopState.PROVISIONAL,
}
_CLOCK_MONOTONIC_COARSE = 6
LONG = 600 * SECOND
_NOT_SEEN = 12345  # what last_seen is set to before each packet

Facts = dict[str, object]


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
            hops={number: self._read_hop(datapath.hops[number]) for number in _used_rows(datapath.hops)},
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
        for name, value in self._as_stored(given.number, record).items():
            flows[name][given.number] = value
        if given.indexed:
            provisional = record.life is Life.PROVISIONAL
            (self.state.provisional if provisional else self.state.index)[record.key] = given.number
            self.rig.put_index(_stored_key(record.key, provisional), given.number)

    # ---- a packet ------------------------------------------------------------------------

    def send(self, frame: bytes, link: str) -> Decision:
        """Lets a frame come in by a link of both; AssertionError if they differ in anything."""
        flows = self.rig.datapath.flows
        flows["last_seen"][flows["state"] != 0] = _NOT_SEEN
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
                _stored_key(key, provisional): number
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
            _stored_prefix(prefix): "charged"
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
                facts[f"record {number}"] = self._as_stored(number, record) | {"seen": record.seen}
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
        for number in _used_rows(flows):
            facts[f"record {number}"] = _read_record(flows[number])
        for number in _used_rows(datapath.hops):
            facts[f"hop {number}"] = self._read_hop(datapath.hops[number])
        return facts

    def _as_stored(self, number: int, record: Record) -> Facts:
        """A record's fields as the map has them, but for times."""
        if record.key is None:
            return {"state": int(_LIVES[record.life])}
        client, vip = record.key.client, self.state.vips[record.key.vip]
        relay = self.state.relay_endpoint(number)
        # The deltas are what the way to the transceiver adds to a sum of words.
        known = self.state.backends.get(record.backend)
        backend = known.endpoint if known else relay
        new, old = relay.address.packed + backend.address.packed, client.address.packed + vip.address.packed
        provisional = record.life is Life.PROVISIONAL
        return {
            "client_addr": to_bytes(client.address),
            "client_port": client.port,
            "vip": record.key.vip,
            "backend": record.backend,
            "client_hop": record.hop,
            "session": record.session,
            "state": int(_LIVES[record.life]),
            "ip_delta": delta(new, old),
            "udp_delta": delta(
                new + _ports(relay, backend),
                old + _ports(client, vip),
            ),
            "up_packets": record.up.packets,
            "up_bytes": record.up.bytes,
            "down_packets": record.down.packets,
            "down_bytes": _stored_transaction(record.transaction) if provisional else record.down.bytes,
        }

    def _read_hop(self, row: np.void) -> Hop:
        link = self._names.get(int(row["ifindex"]), "")
        resolved = next(mine for mine, stored in _RESOLVED.items() if stored == row["resolved"])
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


def _read_record(row: np.void) -> Facts:
    facts: Facts = {
        name: int(row[name])
        for name in abi.FLOW.names or ()
        if name not in ("client_addr", "state", "last_seen", "ip_delta", "udp_delta")
    }
    return facts | {
        "client_addr": row["client_addr"].tobytes(),
        "state": int(row["state"]) & STATE_MASK,
        # Both zeros of one's complement are the same.
        "ip_delta": int(row["ip_delta"]) % 0xFFFF,
        "udp_delta": int(row["udp_delta"]) % 0xFFFF,
        "seen": int(row["last_seen"]) not in (0, _NOT_SEEN),
    }


def stored_sessions(sessions: Mapping[bytes, Session]) -> tuple[Array, Array]:
    """Keys and values of the map, as the daemon writes them."""
    keys = np.array([(ufrag,) for ufrag in sessions], abi.UFRAG_KEY)
    values = np.zeros(len(keys), abi.SESSION)
    for value, session in zip(values, sessions.values(), strict=True):
        value["number"] = session.number
        value["backend"] = [session.backends.get(family, 0) for family in (4, 6)]
        if session.pwd is not None:
            value["flags"] |= abi.SessionFlag.HAS_PWD
            inner, outer = key_states([session.pwd])
            value["inner"], value["outer"] = inner[0], outer[0]
        if session.fingerprint_optional:
            value["flags"] |= abi.SessionFlag.FINGERPRINT_OPTIONAL
    return keys, values


def _stored_key(key: FlowKey, provisional: bool) -> bytes:
    vip = key.vip | (abi.PROVISIONAL_KEY if provisional else 0)
    return to_bytes(key.client.address) + key.client.port.to_bytes(2, "big") + np.uint16(vip).tobytes()


def _stored_prefix(prefix: IPv4Network | IPv6Network) -> bytes:
    return source_key(prefix.network_address)


def clock() -> int:
    """The program's, in ns."""
    return time.clock_gettime_ns(_CLOCK_MONOTONIC_COARSE)


def _stored_transaction(transaction: bytes) -> int:
    """A record has room for 8 of the 12 bytes."""
    return int.from_bytes(transaction[:8], sys.byteorder)


def _ports(source: Endpoint, destination: Endpoint) -> bytes:
    return source.port.to_bytes(2, "big") + destination.port.to_bytes(2, "big")


def _used_rows(rows: Array) -> list[int]:
    """Those that are not all zero."""
    words = rows.view(np.uint64).reshape(len(rows), -1)
    return np.flatnonzero(words.any(axis=1)).tolist()


def peek(queue: Queue) -> list[int]:
    """What is in a queue, left as it was."""
    numbers = list(iter(queue.pop, None))
    for number in numbers:
        queue.push(number)
    return numbers


def read_fib(rig: Rig) -> Fib:
    """The relay host's routes and neighbours, as the kernel tells of them."""
    fib = Fib()
    for family, option in ((4, "-4"), (6, "-6")):
        everything = ip_network("0.0.0.0/0" if family == 4 else "::/0")
        for told in _ask(rig, option, "route", "show", "table", "all"):
            fib.routes.append(
                Route(
                    everything if told["dst"] == "default" else ip_network(told["dst"]),
                    told.get("dev", ""),
                    ip_address(told["gateway"]) if "gateway" in told else None,
                    told.get("type", "unicast"),
                    told.get("metric", 0),
                    told.get("table", "main"),
                )
            )
        fib.rules[family] = [
            Rule(
                told["table"],
                *(ip_network(told[end]) if told.get(end, "all") != "all" else None for end in ("src", "dst")),
            )
            for told in sorted(_ask(rig, option, "rule", "show"), key=lambda told: int(told["priority"]))
        ]
        for told in _ask(rig, option, "neigh", "show", "nud", "permanent"):
            mac = bytes.fromhex(told["lladdr"].replace(":", ""))
            fib.neighbours[ip_address(told["dst"]), told["dev"]] = mac
    return fib


def _ask(rig: Rig, *command: str) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = json.loads(rig.relay.run("ip", "-j", *command))
    return told
