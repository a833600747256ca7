# SPDX-License-Identifier: Apache-2.0
"""The program loaded in a host of its own, and the state of its maps before and after a packet."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from control import abi, jiffies, libbpf, loader
from control.addresses import Endpoint, IPAddress, to_bytes
from control.config import Config
from control.datapath import STATE_MASK
from control.hmac_keys import key_states
from control.layout import FAMILIES, Layout
from control.libbpf import Array
from control.maps import ArrayMap, MappedArray, Queue
from control.places import Place
from control.records import write_places
from fleet.key import FleetKey
from tests.bpf import world
from tests.bpf.entries import Entries
from tests.bpf.packets import checksum
from tests.bpf.world import V4, V6, Family
from tests.lab.host import Host
from tests.lab.netns import Lab

# In an expected state: the time of the run, which is compared with the clock.
SEEN_NOW = 0xFFFFFFFF
BOUND_NOW = abi.FlowState.LIVE | 0xFFFFFFFF & ~STATE_MASK
HELD_NOW = abi.FlowState.PROVISIONAL | 0xFFFFFFFF & ~STATE_MASK
CHARGED_NOW = -1  # a whole budget less one token
SEEN_BEFORE = 12345
BOUND_BEFORE = abi.FlowState.LIVE | 99 << abi.FLOW_STATE_BITS
LEFT_OUT_NOW = abi.FlowState.SUPERSEDED | 0xFFFFFFFF & ~STATE_MASK  # a new record without a slot

_CLOCK_MONOTONIC_COARSE = 6
_LOADS = 20

Ufrag = bytes  # State has a field of that name


@dataclass
class State:
    """All that the program can change, as copies."""

    flows: Array
    index: list[int]  # the records that are entered, each where it ought to be
    removed: list[int]  # counted by the daemon, by bucket of the index
    locked: list[int]  # buckets of the index
    hops: Array
    hop_index: dict[bytes, int]
    free_flows: dict[int, list[int]]
    free_hops: list[int]
    packets: list[int]  # by reason
    bytes: list[int]
    # Budgets: when each is whole again, in ns of the monotonic clock; 0: since ever.
    sources: dict[int, int]  # by cell; those that are 0 left out
    sessions: dict[Ufrag, int]
    derived: dict[int, int]  # by cell, as sources
    cpu: int  # of the CPU that has spent most


@dataclass(frozen=True)
class Outcome:
    """What became of a packet and of the maps."""

    action: str
    frame: bytes
    before: State
    after: State
    nanoseconds: tuple[int, int] = field(repr=False)  # between which the program's clock was

    @property
    def reason(self) -> abi.Reason:
        """The one reason that was counted."""
        moved = [
            abi.Reason(number)
            for number, (old, new) in enumerate(zip(self.before.packets, self.after.packets, strict=True))
            if old != new
        ]
        assert len(moved) == 1, f"not one reason moved but {moved}"
        assert self.after.packets[moved[0]] == self.before.packets[moved[0]] + 1
        return moved[0]

    def assert_state(self, expected: State) -> None:
        """The maps are as expected, and times are the time of the run."""
        seen = expected.flows["last_seen"]
        ticks = [clock >> abi.FLOW_TICK_SHIFT & 0xFFFFFFFF for clock in self.nanoseconds]
        for number in np.flatnonzero(seen == SEEN_NOW):
            assert ticks[0] <= self.after.flows["last_seen"][number] <= ticks[1]
            seen[number] = self.after.flows["last_seen"][number]
        states = expected.flows["state"]
        for now in (BOUND_NOW, HELD_NOW, LEFT_OUT_NOW):
            for number in np.flatnonzero(states == now):
                state = int(self.after.flows["state"][number])
                seconds = [clock // 1_000_000_000 for clock in self.nanoseconds]
                assert state & STATE_MASK == now & STATE_MASK
                assert seconds[0] <= state >> abi.FLOW_STATE_BITS <= seconds[1]
                states[number] = state
        self._assert_budgets(expected)
        assert_same_records("flow", self.after.flows, expected.flows)
        assert_same_records("hop", self.after.hops, expected.hops)
        for name in (
            *("index", "removed", "locked", "free_flows"),
            *("hop_index", "free_hops", "packets", "bytes"),
        ):
            assert getattr(self.after, name) == getattr(expected, name), name

    def _assert_budgets(self, expected: State) -> None:
        def assert_same(what: str, actual: int | None, full_at: int | None, interval: int) -> None:
            if full_at == CHARGED_NOW:
                assert actual is not None, what
                assert self.nanoseconds[0] <= actual - interval <= self.nanoseconds[1], what
            else:
                assert actual == full_at, what

        budgets: tuple[tuple[str, dict[Any, int], dict[Any, int], int], ...] = (
            ("sources", self.after.sources, expected.sources, world.SOURCE_INTERVAL),
            ("sessions", self.after.sessions, expected.sessions, world.SESSION_INTERVAL),
            ("derived", self.after.derived, expected.derived, world.SESSION_INTERVAL),
        )
        for name, actual, wanted, interval in budgets:
            for key in actual.keys() | wanted.keys():
                assert_same(f"{name}: {key!r}", actual.get(key), wanted.get(key), interval)
        assert_same("cpu", self.after.cpu, expected.cpu, world.BINDING_INTERVAL)


def assert_same_records(what: str, actual: Array, expected: Array) -> None:
    changed = np.flatnonzero(actual != expected)
    assert not changed.size, f"{what} {changed[0]}: {actual[changed[0]]} instead of {expected[changed[0]]}"


def delta(new: bytes, old: bytes) -> int:
    """What a flow keeps of a change of words: a one's complement sum, in the host's byte order."""
    total = (checksum(old) - checksum(new)) % 0xFFFF
    return int.from_bytes(total.to_bytes(2, "big"), "little")


def earliest() -> int:
    """What the program's clock says from now on, at the least, in ns.

    It is CLOCK_MONOTONIC as of the last jiffy (control/jiffies.py). Jiffies may come late, also while they
    are measured: hence one more, here and below.
    """
    return time.clock_gettime_ns(_CLOCK_MONOTONIC_COARSE) - 2 * jiffies.measure().nanoseconds


def latest() -> int:
    """What the program's clock has said so far, at the most, in ns."""
    return time.monotonic_ns() + jiffies.measure().nanoseconds


class Rig:
    """Runs packets through the program. Its methods are for inside the relay host."""

    def __init__(self, relay: Host, config: Config) -> None:
        self.relay = relay
        self.pin_path = config.pin_path
        with relay.inside():
            self._loaded = _load(config)
            self.ifindex = {link: socket.if_nametoindex(link) for link in world.LINK_MACS}
        self.datapath = self._loaded.datapath
        self.entering = self._loaded.entering
        self.entries = Entries(self.datapath)
        self._fds = {
            name: libbpf.get_pinned(config.pin_path / name)
            for name in (
                "locals_v2",
                "free_lists_v1",
                "sources_v2",
                "derived_v1",
                "bindings_v1",
                "taps_v1",
                "last_drops_v1",
            )
        }
        self.locals = ArrayMap(self._fds["locals_v2"], abi.LOCALS)
        self._first_locals = self.locals.get(0)
        self._free_lists = MappedArray(self._fds["free_lists_v1"], abi.FREE_LIST)
        self._sources = MappedArray(self._fds["sources_v2"], np.dtype("=u8"))
        self._derived = MappedArray(self._fds["derived_v1"], np.dtype("=u8"))
        self._taps = MappedArray(self._fds["taps_v1"], abi.TAPS)
        with relay.inside():
            self._empty(self.datapath.free_hops)

    def close(self) -> None:
        self._free_lists.close()
        self._sources.close()
        self._derived.close()
        self._taps.close()
        for fd in self._fds.values():
            os.close(fd)
        self._loaded.close()

    def taps(self) -> Array:
        """The one record of taps_v1: the kernel's own memory."""
        return self._taps.array

    def last_drops(self) -> bytes | None:
        """All that is remembered of drops, on all CPUs."""
        size = abi.LAST_DROPS.itemsize * libbpf.possible_cpus()
        return libbpf.lookup(self._fds["last_drops_v1"], bytes(4), size)

    # ---- state ---------------------------------------------------------------------------

    def reset(self) -> None:
        """The world of world.py, without any flow. Counters go on."""
        datapath = self.datapath
        datapath.flows[:] = np.zeros(1, abi.FLOW)[0]
        datapath.quality[:] = np.zeros(1, abi.QUALITY)[0]
        datapath.quality_more[:] = np.zeros(1, abi.QUALITY_MORE)[0]
        datapath.lease["until"] = 0
        datapath.delete_sessions(datapath.read_sessions()[0])
        self.entries.clear()
        self.put_hops(np.zeros(1, abi.HOP))
        datapath.hop_index.delete_many(datapath.hop_index.read()[0])
        self.set_free_flows(4, *V4.free)
        self.set_free_flows(6, *V6.free)
        self.set_free_hops(*world.FREE_HOPS)
        self.locals.put(0, self._first_locals)
        self._put_hops()
        self._put_backends()
        self._put_sessions()
        keys = {number: key.secret for number, key in world.FLEET_KEYS.items()}
        self.put_fleet(keys, world.FLEET_OWNERS)
        self.forget_sources()
        self.forget_derived()
        self.put_cpu_budget(0)

    def put_hops(self, hops: Array) -> None:
        """All of them; and what CPUs remember of others is void, as when the daemon takes numbers back."""
        taken_back = int(self.datapath.hops["taken_back"][0]) + 1
        self.datapath.hops[:] = hops
        self.datapath.hops["taken_back"][0] = taken_back

    def set_free_flows(self, version: int, *numbers: int) -> None:
        """What is in a family's ring, and in which order; it goes on where it has got to."""
        ring = self.free_list(version)
        ring["head"] = ring["tail"]
        self.datapath.free.give(version, np.array(numbers, np.uint32))

    def free_list(self, version: int) -> Any:
        """A family's ring, as the program has it."""
        return self._free_lists.array[FAMILIES.index(version)]

    def set_free_hops(self, *numbers: int) -> None:
        self._empty(self.datapath.free_hops)
        for number in numbers:
            self.datapath.free_hops.push(number)

    def put_hop(self, number: int, dmac: bytes, link: str, *, mtu: int = world.MTU) -> None:
        put_hop(self.datapath.hops, number, dmac, self.ifindex[link], link, mtu=mtu)

    def put_flow(
        self,
        family: Family,
        record: int | None = None,
        *,
        client: Endpoint | None = None,
        backend: int | None = None,
        session: int = world.ALICE_SESSION,
        hop: int = world.TO_CLIENT,
        state: int = BOUND_BEFORE,
        transaction: bytes = bytes(8),
    ) -> None:
        """A flow as binding leaves it, in the family's live record unless told otherwise."""
        put_flow(
            self.datapath.flows,
            family,
            family.live if record is None else record,
            client=client or family.client,
            backend=backend or family.backends.usual,
            session=session,
            hop=hop,
            state=state,
            transaction=transaction,
        )
        key = flow_key(family, client or family.client)
        self.entries.put(key, family.live if record is None else record)

    def cell(self, address: IPAddress) -> int:
        """Of a source's budget."""
        return source_cell(address, self.datapath.layout)

    def put_source_budget(self, address: IPAddress, full_at: int) -> None:
        self._sources.array[self.cell(address)] = full_at

    def sources(self) -> dict[int, int]:
        """When budgets of sources are whole again, by cell; those that are 0, and so whole, left out."""
        return _full_at(self._sources.array)

    def put_derived_budget(self, session: int, full_at: int) -> None:
        """Of a session that nobody has registered, by its number."""
        self._derived.array[session % abi.DERIVED_CELLS] = full_at

    def derived(self) -> dict[int, int]:
        """When budgets of sessions that nobody has registered are whole again, by cell, as sources()."""
        return _full_at(self._derived.array)

    def forget_derived(self) -> None:
        """Makes all their budgets whole."""
        self._derived.array[:] = 0

    def forget_sources(self) -> None:
        """Makes all their budgets whole."""
        self._sources.array[:] = 0

    def put_session_budget(self, ufrag: bytes, full_at: int) -> None:
        key = np.array([(ufrag,)], abi.UFRAG_KEY)
        raw = self.datapath.sessions.get(key.tobytes())
        assert raw is not None
        session = np.frombuffer(raw, abi.SESSION).copy()
        session["full_at"] = full_at
        assert self.datapath.put_sessions(key, session) == 1

    def put_cpu_budget(self, full_at: int) -> None:
        """The same on every CPU."""
        values = np.full(libbpf.possible_cpus(), full_at, np.uint64)
        libbpf.update(self._fds["bindings_v1"], bytes(4), values.tobytes())

    def put_local_number(self, address: IPAddress, number: int) -> None:
        """Lets the table of locals give another number for an address."""
        table = self.locals.get(0).copy()
        slots = table["slots"][0]
        slots["number"][slots["addr"] == np.void(to_bytes(address))] = number
        self.locals.put(0, table)

    def snapshot(self) -> State:
        flows = self.datapath.flows.copy()
        for name in ("ip_delta", "udp_delta"):
            flows[name] %= 0xFFFF  # both zeros of one's complement are the same
        reasons = self.datapath.reasons()
        ufrags, sessions = self.datapath.read_sessions()
        cpus = libbpf.lookup(self._fds["bindings_v1"], bytes(4), 8 * libbpf.possible_cpus())
        assert cpus is not None
        return State(
            flows=flows,
            index=self.entries.read(),
            removed=self.entries.removed(),
            locked=self.entries.locked(),
            hops=self.datapath.hops.copy(),
            hop_index=_as_dict(*self.datapath.hop_index.read()),
            free_flows={version: self.datapath.free.waiting(version).tolist() for version in FAMILIES},
            free_hops=self._peek(self.datapath.free_hops),
            packets=reasons["packets"].tolist(),
            bytes=reasons["bytes"].tolist(),
            sources=self.sources(),
            derived=self.derived(),
            sessions=dict(zip(ufrags["ufrag"].tolist(), sessions["full_at"].tolist(), strict=True)),
            cpu=int(np.frombuffer(cpus, np.uint64).max()),
        )

    # ---- packets -------------------------------------------------------------------------

    def run(self, frame: bytes, link: str = world.CLIENTS) -> Outcome:
        """Lets a frame come in by a link, and looks at all maps before and after."""
        before = self.snapshot()
        start = earliest()
        ran = self.send(frame, link)
        end = latest()
        return Outcome(ran.action, ran.data, before, self.snapshot(), (start, end))

    def send(self, frame: bytes, link: str = world.CLIENTS) -> libbpf.ProgramRun:
        """Lets a frame come in by a link."""
        return libbpf.run_program(self._loaded.program_fd, frame, ifindex=self.ifindex[link])

    # ---- inside --------------------------------------------------------------------------

    def _put_hops(self) -> None:
        self.put_hop(world.TO_BACKEND, world.BACKEND_MAC, world.BACKENDS)
        self.put_hop(world.TO_CLIENT, world.CLIENT_MAC, world.CLIENTS)
        self.put_hop(world.TO_NEAR_BACKEND, world.BACKEND_MAC, world.CLIENTS)
        self.put_hop(world.NARROW, world.BACKEND_MAC, world.BACKENDS, mtu=world.NARROW_MTU)

    def _put_backends(self) -> None:
        backends = self.datapath.backends
        for number, endpoint in world.BACKEND_ENDPOINTS.items():
            backends["addr"][number] = np.void(to_bytes(endpoint.address))
            backends["port"][number] = endpoint.port
            backends["hop"][number] = world.BACKEND_HOPS[number]

    def _put_sessions(self) -> None:
        keys, values = self._sessions
        assert self.datapath.put_sessions(keys, values) == len(keys)

    @cached_property
    def _sessions(self) -> tuple[Array, Array]:
        """Those of the world, as the program has them: their keys' states take long to compute."""
        keys = np.array([(ufrag,) for ufrag in world.SESSIONS], abi.UFRAG_KEY)
        values = np.zeros(len(keys), abi.SESSION)
        sessions = list(world.SESSIONS.values())
        values["number"] = [session.number for session in sessions]
        values["backend"] = [session.backends for session in sessions]
        values["flags"] = [session_flags(session) for session in sessions]
        values["inner"], values["outer"] = key_states([session.pwd or b"" for session in sessions])
        values["inner"][values["flags"] & abi.SessionFlag.HAS_PWD == 0] = 0
        values["outer"][values["flags"] & abi.SessionFlag.HAS_PWD == 0] = 0
        return keys, values

    def put_fleet(self, keys: Mapping[int, bytes], owners: Mapping[int, tuple[int, int]]) -> None:
        """The fleet's keys, 32 bytes each, and its transceivers' backends (IPv4, IPv6; 0: none)."""
        wanted = {number: FleetKey.of(secret) for number, secret in keys.items()}
        if self.datapath.fleet_keys != wanted:  # their states take long to compute
            self.datapath.set_fleet_keys(wanted)
        places = {number: Place(number, 0, backends) for number, backends in owners.items()}
        self.datapath.fleet_owners[:] = np.zeros(1, abi.FLEET_OWNER)[0]
        write_places(self.datapath.fleet_owners, places)

    @staticmethod
    def _empty(queue: Queue) -> list[int]:
        return list(iter(queue.pop, None))

    def _peek(self, queue: Queue) -> list[int]:
        numbers = self._empty(queue)
        for number in numbers:
            queue.push(number)
        return numbers


def _load(config: Config) -> loader.Loaded:
    """Loads until the random key of the hashes gives each of the world's sources a cell of its own."""
    for _ in range(_LOADS):
        loaded = loader.open_datapath(config)
        cells = {source_cell(address, loaded.datapath.layout) for address in world.SOURCES}
        if len(cells) == len(world.SOURCES):
            return loaded
        loaded.close()
        loader.remove(config.pin_path)
    raise AssertionError("the hash of sources does not spread them")


def _full_at(cells: Array) -> dict[int, int]:
    spent = np.flatnonzero(cells)
    return dict(zip(spent.tolist(), cells[spent].tolist(), strict=True))


def _as_dict(keys: Array, values: Array) -> dict[bytes, int]:
    return {key.tobytes(): int(value) for key, value in zip(keys, values, strict=True)}


# ---- records, in the maps or in a copy of them ----------------------------------------------


def session_flags(session: world.Session) -> int:
    pwd = abi.SessionFlag.HAS_PWD if session.pwd is not None else 0
    return pwd | (abi.SessionFlag.FINGERPRINT_OPTIONAL if session.fingerprint_optional else 0)


def flow_key(family: Family, client: Endpoint) -> bytes:
    vip = np.uint16(family.vip_number).tobytes()
    return to_bytes(client.address) + client.port.to_bytes(2, "big") + vip


def source_cell(address: IPAddress, layout: Layout) -> int:
    """The cell of a source's budget, an IPv4 address's or an IPv6 /64's: the hash of bpf/budget.h."""
    prefix = address.packed if address.version == 4 else address.packed[:8]
    words = [int.from_bytes(prefix[at : at + 4], sys.byteorder) for at in range(0, len(prefix), 4)]
    upper, lower = (*words, 0)[:2]
    mixed = (upper + layout.hash_key[6]) % 2**32 * ((lower + layout.hash_key[7]) % 2**32)
    return (mixed ^ mixed >> 32) * 0x9E3779B97F4A7C15 % 2**64 >> 48


def hop_key(neighbour: IPAddress, ifindex: int) -> bytes:
    return to_bytes(neighbour) + np.uint32(ifindex).tobytes()


def put_hop(
    hops: Array,
    number: int,
    dmac: bytes,
    ifindex: int,
    link: str,
    *,
    mtu: int = world.MTU,
    resolved: abi.HopState = abi.HopState.RESOLVED,
) -> None:
    hops["dmac"][number] = np.void(dmac)
    hops["smac"][number] = np.void(world.LINK_MACS[link])
    hops["mtu"][number] = mtu
    hops["ifindex"][number] = ifindex
    hops["resolved"][number] = resolved


def put_flow(
    flows: Array,
    family: Family,
    record: int,
    *,
    client: Endpoint,
    backend: int,
    session: int,
    hop: int,
    state: int,
    last_seen: int = SEEN_BEFORE,
    transaction: bytes = bytes(8),
) -> None:
    """A fresh record, with the deltas that its addresses and ports call for.

    transaction: the first bytes of its id, which a provisional record has.
    """
    relay = world.relay_of(record)
    inside = world.BACKEND_ENDPOINTS.get(backend, Endpoint(relay, 1))
    new, old = relay.packed + inside.address.packed, client.address.packed + family.vip.address.packed
    new_ports = family.relay_port(record).to_bytes(2, "big") + inside.port.to_bytes(2, "big")
    old_ports = client.port.to_bytes(2, "big") + family.vip.port.to_bytes(2, "big")
    flow = np.zeros(1, abi.FLOW)
    flow["client_addr"] = np.void(to_bytes(client.address))
    flow["client_port"] = client.port
    flow["vip"] = family.vip_number
    flow["backend"] = backend
    flow["client_hop"] = hop
    flow["session"] = session
    flow["state"] = state
    flow["last_seen"] = last_seen
    flow["ip_delta"] = delta(new, old)
    flow["udp_delta"] = delta(new + new_ports, old + old_ports)
    flow["down_bytes"] = np.frombuffer(transaction, np.uint64)
    flows[record] = flow[0]


# ---- the host --------------------------------------------------------------------------------


@contextmanager
def loaded_rig() -> Iterator[Rig]:
    """A rig in a lab of its own, which goes with it."""
    with Lab() as lab:
        relay, far = lab.host("relay", is_relay=True), lab.host("far")
        # What the far ends' kernel would send by itself would be counted among the packets.
        far.sysctl("net.ipv6.conf.default.disable_ipv6", 1)
        subnets: Mapping[str, list[str]] = {
            world.CLIENTS: [f"{V4.own}/24", f"{V6.own}/64"],
            world.BACKENDS: [f"{V4.relay}/24", f"{world.SECOND_RELAY}/24", f"{V6.relay}/64"],
            world.ELSEWHERE: ["198.19.0.1/24", "2001:db8:e::1/64"],
        }
        for link, addresses in subnets.items():
            lab.link(relay, far, addresses, name_a=link, name_b=link, mtu=world.MTU)
            relay.ip(f"link set dev {link} address {world.LINK_MACS[link].hex(':')}")
        relay.ip(*(f"address add {vip.address} dev lo nodad" for vip in world.VIPS))
        for family in world.FAMILIES:
            relay.ip(
                f"route add default via {family.gateway}",
                f"route add unreachable {family.unreachable.address}",
                f"route add default via {family.other_gateway} table 100",
                *(
                    f"neighbour add {address} lladdr {mac.hex(':')} dev {link} nud permanent"
                    for address, mac, link in (
                        (family.client.address, world.CLIENT_MAC, world.CLIENTS),
                        (family.gateway, world.GATEWAY_MAC, world.CLIENTS),
                        (family.other_gateway, world.OTHER_GATEWAY_MAC, world.CLIENTS),
                        (family.elsewhere.address, world.CLIENT_MAC, world.ELSEWHERE),
                    )
                ),
            )
            version = "" if family is V4 else "-6 "
            relay.run(
                "ip",
                *f"{version}rule add from {family.vip.address} to {family.ruled.address} table 100".split(),
            )
        config = Config(
            interfaces=(world.CLIENTS, world.BACKENDS),
            vips=world.VIPS,
            relay_addresses=world.OWN_RELAYS,
            group_relay_addresses=tuple(world.FOREIGN_RELAYS.values()),
            relay_ports=world.PORTS,
            pin_path=lab.pins / "relay",
            max_sessions=64,
            max_backends=len(world.BACKEND_ENDPOINTS),
            source_requests_per_second=world.SOURCE_REQUESTS_PER_SECOND,
            source_exempt=world.SOURCE_EXEMPT,
            bindings_per_second=world.BINDINGS_PER_SECOND,
            flows_per_session=world.FLOWS_PER_SESSION,
            flow_idle_seconds=world.FLOW_IDLE_SECONDS,
        )
        rig = Rig(relay, config)
        try:
            yield rig
        finally:
            rig.close()
