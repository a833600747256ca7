# SPDX-License-Identifier: Apache-2.0
"""The program and the model side by side, in the same state: what one does, the other must do."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from control import abi
from control import flows as selection
from control.abi import FlowState
from control.libbpf import Array
from tests.bpf import world
from tests.bpf.differential.acts import Act, Ending, Entering, Fleet, Lease, Rest
from tests.bpf.differential.held import differences, model_facts, program_facts, read_hop
from tests.bpf.differential.starts import Given, Room, Start
from tests.bpf.differential.stored import (
    NOT_SEEN,
    Facts,
    as_stored,
    read_fib,
    stored_foreign,
    stored_key,
    stored_sessions,
    used_rows,
)
from tests.bpf.rig import Rig, earliest, latest
from tests.model.budget import SECOND, Budget, prefix_of
from tests.model.daemon import Daemon, Told
from tests.model.relay import ROUTABLE_BUDGETS, THIS_CPU, Decision, Relay
from tests.model.state import Backend, Endpoint, Life, Link, Record, Session, State

LONG = 600 * SECOND


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
        self._fleet: Fleet | None = None
        self.prepare(Start())

    # ---- before a packet -----------------------------------------------------------------

    def prepare(self, start: Start) -> State:
        """Lets both begin anew."""
        datapath = self.rig.datapath
        datapath.flows[:] = np.zeros(1, abi.FLOW)[0]
        self.rig.put_hops(self._usual_hops)
        datapath.hop_index.delete_many(datapath.hop_index.read()[0])
        self.rig.entries.clear()
        self.rig.set_free_flows(4, *start.free4)
        self.rig.set_free_flows(6, *start.free6)
        self.rig.set_free_hops(*start.free_hops)
        self.rig.forget_sources()
        self.rig.forget_derived()
        datapath.lease["until"] = 1 if start.is_lease_over else 0
        self.rig.put_cpu_budget(0)
        datapath.delete_sessions(self._other_sessions)
        datapath.put_sessions(*self._usual_stored)  # their budgets are whole again
        self._other_sessions, others = stored_sessions(start.sessions)
        datapath.put_sessions(self._other_sessions, others)
        self.state = State(
            vips=[Endpoint(*vip) for vip in world.VIPS],
            relays=list(world.RELAYS),
            ports=range(world.PORTS.first, world.PORTS.last + 1),
            links={link: Link(world.LINK_MACS[link], world.MTU) for link in (world.CLIENTS, world.BACKENDS)},
            fib=self._fib,
            sessions=self._usual_sessions | dict(start.sessions),
            backends={
                number: Backend(Endpoint(*endpoint), world.BACKEND_HOPS[number])
                for number, endpoint in world.BACKEND_ENDPOINTS.items()
            },
            hops={
                number: read_hop(datapath.hops[number], self._names)
                for number in used_rows(datapath.hops)
                if number
            },
            hops_max=abi.HOP_MAX,
            records=[Record() for _ in datapath.flows],
            free_records={4: deque(start.free4), 6: deque(start.free6)},
            free_hops=deque(start.free_hops),
            is_full=start.index is Room.NONE,
            is_locked=start.is_locked,
            is_lease_over=start.is_lease_over,
            foreign=datapath.foreign,
            budget_of=lambda source: self.rig.cell(source.network_address),
            clock=earliest,
        )
        for given in start.flows:
            self._put_flow(given)
        if start.index is not Room.MUCH:
            open_buckets = () if start.index is Room.NONE else range(0, datapath.layout.buckets, 4)
            self.rig.entries.fill(but=open_buckets)
        if start.is_locked:
            self.rig.entries.lock()
        self._put_budgets(start)
        self.put_fleet(start.fleet)
        self.relay, self.daemon = Relay(self.state), Daemon(self.state)
        self._removed = 0
        self._counters = self._read_counters()
        return self.state

    def put_fleet(self, fleet: Fleet) -> None:
        """What both know of the fleet from now on."""
        self.state.fleet_keys = dict(fleet.keys)
        self.state.fleet_owners = {
            number: {family: backend for family, backend in zip((4, 6), backends, strict=True) if backend}
            for number, backends in fleet.owners.items()
        }
        if fleet != self._fleet:
            self._fleet = fleet
            self.rig.put_fleet(fleet.keys, fleet.owners)

    def _put_budgets(self, start: Start) -> None:
        """Those that are spent stay so for longer than a case takes."""
        state, now = self.state, earliest()
        state.source_budget = Budget(2 * world.SOURCE_REQUESTS_PER_SECOND, 2)
        state.session_budget = Budget(world.FLOWS_PER_SESSION, world.FLOW_IDLE_SECONDS)
        state.binding_budget = Budget(2 * world.BINDINGS_PER_SECOND, 2)
        state.exempt = list(world.SOURCE_EXEMPT)
        for address in start.spent_sources:
            state.source_budget.bucket(state.budget_of(prefix_of(address)), now).credit = -LONG
            self.rig.put_source_budget(address, now + 2 * SECOND + LONG)
        if start.is_cpu_spent:
            state.binding_budget.bucket(THIS_CPU, now).credit = -LONG
            self.rig.put_cpu_budget(now + 2 * SECOND + LONG)
        for ufrag, tokens in start.tokens.items():
            bucket = state.session_budget.bucket(ufrag, now)
            missing = (bucket.tokens - tokens) * bucket.interval
            bucket.credit -= missing
            self.rig.put_session_budget(ufrag, now + missing)
        for number, tokens in start.routable_tokens.items():
            bucket = state.session_budget.bucket(number % ROUTABLE_BUDGETS, now)
            missing = (bucket.tokens - tokens) * bucket.interval
            bucket.credit -= missing
            self.rig.put_derived_budget(number, now + missing)

    def _put_flow(self, given: Given) -> None:
        record = given.record
        assert record.key is not None
        self.state.records[given.number] = replace(record, up=replace(record.up), down=replace(record.down))
        flows = self.rig.datapath.flows
        for name, value in as_stored(self.state, given.number, record).items():
            flows[name][given.number] = value
        if given.indexed:
            self.state.entered.add(given.number)
            self.rig.entries.put(stored_key(record.key), given.number)

    # ---- a packet ------------------------------------------------------------------------

    def send(self, frame: bytes, link: str) -> Decision:
        """Lets a frame come in by a link of both; AssertionError if they differ in anything."""
        self._forget_when_seen()
        said = self.relay.handle(frame, link)
        began = earliest()
        ran = self.rig.send(frame, link)
        self._date(began, latest())
        self._compare(
            f"on a frame that came by {link}:\n  {frame.hex()}",
            f"{said.action}, {said.reason}; {'; '.join(said.changes) or 'no change of state'}",
            {
                "action": said.action,
                "counted": f"{said.reason}: 1 packet, {said.counted} bytes",
                "frame": said.frame.hex(),
            },
            {"action": ran.action, "counted": self._newly_counted(), "frame": ran.data.hex()},
        )
        return said

    def _forget_when_seen(self) -> None:
        flows = self.rig.datapath.flows
        flows["last_seen"][flows["state"] != 0] = NOT_SEEN

    def _date(self, began: int, ended: int) -> None:
        """Tells the model when a packet came that has bound a flow: between these times, in ns."""
        for number, record in enumerate(self.state.records):
            if record.second is None:
                second = int(self.rig.datapath.flows["state"][number]) >> abi.FLOW_STATE_BITS
                assert began // SECOND <= second <= ended // SECOND
                record.second = second

    def foreign_flows(self) -> set[int]:
        """The records of flows at other relays' addresses."""
        span = len(self.state.ports)
        return {
            number
            for number, record in enumerate(self.state.records)
            if record.life is Life.LIVE and number // span in self.state.foreign
        }

    # ---- what is no packet ---------------------------------------------------------------

    def do(self, act: Act) -> list[str]:
        """The same with both; AssertionError if they differ. What became of flows that are entered."""
        match act:
            case Fleet():
                self.put_fleet(act)
            case Lease():
                self.state.is_lease_over = act.is_over
                self.rig.datapath.lease["until"] = int(act.is_over)
            case Entering():
                return self._enter([one.told(self.state) for one in act.flows])
            case Ending():
                self._end(act)
            case Rest():
                self._rest()
        return []

    def _enter(self, told: Sequence[Told]) -> list[str]:
        self._forget_when_seen()
        said = self.daemon.enter(told)
        outcomes = self.rig.entering.enter(stored_foreign(told))
        self._compare(
            "\n  ".join(["on flows of other relays:", *map(str, told)]),
            ", ".join(said),
            {"outcomes": said, "counted": ""},
            {
                "outcomes": [abi.Reason(one).name.lower() for one in outcomes.tolist()],
                "counted": self._newly_counted(),
            },
        )
        return said

    def _end(self, ending: Ending) -> None:
        """As the daemon does, ufrags first."""
        session = self.state.sessions.get(ending.ufrag)
        if session is None:
            return
        self._forget_when_seen()
        ufrags = [ufrag for ufrag, one in self.state.sessions.items() if one.number == session.number]
        said = self.daemon.end_session(session)
        datapath = self.rig.datapath
        datapath.delete_sessions(np.array([(ufrag,) for ufrag in ufrags], abi.UFRAG_KEY))
        held = selection.in_state(
            datapath.flows["state"], FlowState.LIVE, FlowState.PROVISIONAL, FlowState.SUPERSEDED
        )
        backends = session.backends.values()
        did = selection.of_sessions(datapath.flows, held, [(session.number, one) for one in backends])
        datapath.end_flows(did)
        self._take_out()
        self._compare(
            f"on the end of {ending.ufrag!r}", f"ends {said}", {"ended": said}, {"ended": did.tolist()}
        )

    def _rest(self) -> None:
        self._forget_when_seen()
        said = self.daemon.free()
        datapath = self.rig.datapath
        dead = selection.in_state(datapath.flows["state"], FlowState.DEAD)
        datapath.end_flows(dead)  # again: to begin with, some have an entry yet
        datapath.free_flows(dead)
        self._take_out()
        self._compare("on what has rested", f"frees {said}", {"free": said}, {"free": dead.tolist()})

    def _take_out(self) -> None:
        """The daemon has taken entries out of the index: what was full stays so, and it has counted."""
        if self.state.is_full:
            self.rig.entries.fill()
        self._removed = sum(self.rig.entries.removed())

    def _compare(self, about: str, model: str, said: Facts, did: Facts) -> None:
        """What the two say of something, and all that they hold after it."""
        holds, held = model_facts(self.state, self._removed), program_facts(self.rig, self._names)
        found = list(differences(said | holds, did | held))
        if found:
            heading = [
                f"the program differs from the model, {about}",
                f"hash key: {self.rig.datapath.layout.hash_key}",
                f"model: {model}",
            ]
            raise AssertionError("\n".join([*heading, *found]))

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
