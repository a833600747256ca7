# SPDX-License-Identifier: Apache-2.0
"""The maps of a loaded program, with types and with what the daemon does to them.

Made by control/loader.py. Whoever writes here is the daemon, one process per host; anyone
may read.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network

import numpy as np

from control import abi, flow_index, libbpf, local_table
from control.addresses import Endpoint, IPAddress, to_bytes
from control.errors import DatapathError
from control.free_lists import FreeLists
from control.layout import FAMILIES, Layout
from control.libbpf import Array
from control.maps import ArrayMap, HashMap, MappedArray, PerCpuArray, Queue
from control.records import relays_of, vips_of
from control.routable import key_record
from fleet.key import FleetKey

STATE_MASK = (1 << abi.FLOW_STATE_BITS) - 1
_MAPPED = {
    "flows_v2": abi.FLOW,
    "quality_v2": abi.QUALITY,
    "quality_more_v1": abi.QUALITY_MORE,
    "flow_index_v2": abi.BUCKET,
    "free_flows_v2": abi.FREE_LINE,
    "free_lists_v1": abi.FREE_LIST,
    "backends_v1": abi.BACKEND,
    "hops_v1": abi.HOP,
    "fleet_owners_v1": abi.FLEET_OWNER,
    "lease_v1": abi.LEASE,
}


class Datapath:
    """The kernel's side as one object.

    flows, quality, quality_more, index, backends, hops, fleet_owners and lease are the kernel's own memory:
    reads see what XDP writes, and writes are seen by the next packet.

    Attributes:
        vips, relays: by the number that flows and records name them with.
        present: the relay addresses whose packets are ours, by number.
        serving: the numbers of those at which new flows are bound.
        foreign: the numbers of those that are another relay's of the group; what is neither is leaving.
        layout: which record is whose, once lay_out() has been called in the life of the maps.
    """

    def __init__(self, fds: Mapping[str, int], *, writable: bool = True) -> None:
        """Takes over the descriptors, by map name."""
        self._fds = dict(fds)
        self._mappings = {
            name: MappedArray(fds[name], dtype, writable=writable) for name, dtype in _MAPPED.items()
        }
        arrays = {name: mapping.array for name, mapping in self._mappings.items()}
        self.flows, self.backends, self.hops = (
            arrays["flows_v2"],
            arrays["backends_v1"],
            arrays["hops_v1"],
        )
        self.quality, self.quality_more = arrays["quality_v2"], arrays["quality_more_v1"]
        self.index = flow_index.words_of(arrays["flow_index_v2"])
        self.free = FreeLists(arrays["free_lists_v1"], arrays["free_flows_v2"])
        self.sessions = HashMap(fds["sessions_v1"], abi.UFRAG_KEY, abi.SESSION)
        self.hop_index = HashMap(fds["hop_index_v1"], abi.HOP_KEY, "=u4")
        self.links = HashMap(fds["links_v1"], "=u4", abi.LINK_INFO)
        self.free_hops = Queue(fds["free_hops_v1"])
        self._exempt = HashMap(fds["exempt_v1"], abi.PREFIX_KEY, "=u1")
        self._owners = ArrayMap(fds["owners_v1"], abi.OWNER)
        self.fleet_owners = arrays["fleet_owners_v1"]
        self.lease = arrays["lease_v1"]
        self.fleet_keys: dict[int, FleetKey] = {}
        self._fleet_keys = ArrayMap(fds["fleet_keys_v1"], abi.FLEET_KEY)
        self._vips = ArrayMap(fds["vips_v1"], abi.VIP)
        self._relays = ArrayMap(fds["relays_v1"], abi.RELAY)
        self._locals = ArrayMap(fds["locals_v2"], abi.LOCALS)
        self._layouts = ArrayMap(fds["layout_v1"], abi.LAYOUT)
        self._reasons = PerCpuArray(fds["reasons_v1"], abi.REASON_COUNTER)
        self._served_vips: dict[int, Endpoint] = {}
        self._reserved = np.zeros(0, np.uint32)
        self._read_addresses()
        self.serving = frozenset(self.present) - self.foreign
        self._layout = Layout.of_record(self._layouts.get(0))

    @property
    def own_relays(self) -> dict[int, IPAddress]:
        """The relay addresses that are no other relay's, by number."""
        return {number: one for number, one in self.present.items() if number not in self.foreign}

    @property
    def foreign_relays(self) -> dict[int, IPAddress]:
        """Those of the group's other relays, by number."""
        return {number: one for number, one in self.present.items() if number in self.foreign}

    @property
    def descriptors(self) -> Mapping[str, int]:
        """Of all maps, by name."""
        return self._fds

    def close(self) -> None:
        """Lets go of the maps. What is pinned or attached stays."""
        del self.flows, self.quality, self.quality_more, self.index, self.free, self.backends, self.hops
        del self.fleet_owners, self.lease
        for mapping in self._mappings.values():
            mapping.close()
        for fd in self._fds.values():
            os.close(fd)
        self._fds = {}

    def trade_places(self, other: Datapath) -> None:
        """Whoever holds this one has the other one's maps from now on, and the other way round. In one step,
        for those who read in threads of their own."""
        self.__dict__, other.__dict__ = other.__dict__, self.__dict__

    def fill_free_hops(self) -> None:
        """Makes all hops of new maps available."""
        for number in range(1, abi.HOP_MAX):
            self.free_hops.push(number)

    # ---- addresses -----------------------------------------------------------------------

    def set_addresses(
        self, vips: Mapping[int, Endpoint], relays: Mapping[int, IPAddress], foreign: Collection[int] = ()
    ) -> None:
        """Enters VIPs and relay addresses by their numbers, and makes them known to the program.

        Entries that are not named any more keep their place, since flows may still refer to
        them, but no new packet is taken for them. Where new flows are bound is up to `offer`: not at
        the addresses that are `foreign`, in any case.
        """
        for number, vip in vips.items():
            record = np.zeros(1, abi.VIP)
            record["addr"], record["port"] = np.void(to_bytes(vip.address)), vip.port
            self._vips.put(number, record)
        for number, address in relays.items():
            record = np.zeros(1, abi.RELAY)
            record["addr"] = np.void(to_bytes(address))
            self._relays.put(number, record)
        self._locals.put(0, local_table.build(vips, relays, foreign))
        self._served_vips = dict(vips)
        self._read_addresses()

    def addresses(self) -> tuple[dict[int, Endpoint], dict[int, IPAddress], frozenset[int]]:
        """What set_addresses was given."""
        return dict(self._served_vips), dict(self.present), self.foreign

    def _read_addresses(self) -> None:
        self.vips = vips_of(self._vips.read())
        self.relays = relays_of(self._relays.read())
        table = self._locals.get(0)
        self.present = local_table.relays_in(table)
        self.foreign = local_table.foreign_in(table)

    def relay_endpoint(self, number: int) -> Endpoint:
        """The relay address and port of a flow record: what its transceiver sees."""
        return self.layout.endpoint(number, self.relays)

    def set_exempt(self, prefixes: Iterable[IPv4Network | IPv6Network]) -> None:
        """The sources that no budget holds for; others that were are not any more."""
        wanted = set()
        for prefix in prefixes:
            record = np.zeros(1, abi.PREFIX_KEY)
            record["bits"] = prefix.prefixlen + (96 if prefix.version == 4 else 0)
            record["addr"] = np.void(to_bytes(prefix.network_address))
            wanted.add(record.tobytes())
        for key in wanted:
            self._exempt.put(key, b"\1")
        for key in self._exempt.keys() - wanted:
            self._exempt.delete(key)

    # ---- sessions and owners -------------------------------------------------------------

    def put_sessions(self, keys: Array, values: Array) -> int:
        """Writes sessions in order; returns how many, fewer than given when the map is full."""
        return self.sessions.put_many(keys, values)

    def delete_sessions(self, keys: Array) -> int:
        """Deletes sessions by ufrag; returns how many were there."""
        return self.sessions.delete_many(keys)

    def read_sessions(self) -> tuple[Array, Array]:
        return self.sessions.read()

    def session_batches(self) -> Iterator[tuple[Array, Array]]:
        """The same, some thousands at a time."""
        return self.sessions.batches()

    def read_owners(self) -> Array:
        """All owners by number; one with an empty name is not used."""
        return self._owners.read()

    def put_owner(self, number: int, owner: Array) -> None:
        self._owners.put(number, owner)

    def set_fleet_keys(self, keys: Mapping[int, FleetKey]) -> None:
        """The keys of routable ufrags by their numbers; no others hold any more."""
        for number in range(abi.FLEET_KEY_MAX):
            key = keys.get(number)
            self._fleet_keys.put(number, np.zeros(1, abi.FLEET_KEY) if key is None else key_record(key))
        self.fleet_keys = dict(keys)

    # ---- flows ---------------------------------------------------------------------------

    def states(self) -> Array:
        """Each record's enum flow_state."""
        return self.flows["state"] & STATE_MASK

    def capacity(self) -> int:
        """Flows that fit: the ports of all relay addresses that are served."""
        return self.layout.span * len(self.serving)

    @property
    def is_laid_out(self) -> bool:
        """Whether the maps have been made ready for their first packet."""
        return self._layout is not None

    @property
    def layout(self) -> Layout:
        """
        Raises:
            DatapathError: the maps are new, or whoever made them died before it had laid them out.
        """
        if self._layout is None:
            raise DatapathError("the flow table is not laid out: start earshotd, which does it")
        return self._layout

    def lay_out(self, layout: Layout, serving: Collection[int] | None = None) -> None:
        """Makes new maps a flow table, in which records that are not FREE are in use already.

        After set_addresses: families follow from those. What tells that it is done is written last.
        `serving`: where new flows are bound; None: at all relay addresses that are present and ours.
        """
        versions: list[int] = [address.version for address in self.relays[: layout.relays]]
        self.free.lay_out({family: layout.span * versions.count(family) for family in FAMILIES})
        self.serving = frozenset(self.present) - self.foreign if serving is None else frozenset(serving)
        self._layout = layout
        self._give_free()
        self._layouts.put(0, layout.record())

    def offer(self, serving: Collection[int]) -> None:
        """From now on new flows are bound at the relay addresses of these numbers alone.

        Where the rings hold what they ought to, nothing happens. Otherwise they are emptied and filled
        again, and requests for new flows are dropped meanwhile, for a hundredth of a second, as if the table
        were full.

        Raises:
            DatapathError: the program binds too fast for that; nothing has changed.
        """
        waiting = np.concatenate([self.free.waiting(family) for family in FAMILIES])
        taken = waiting[self.states()[waiting] != abi.FlowState.FREE]
        if len(taken):  # just now, as a rule: then they do not wait any more
            still = np.concatenate([self.free.waiting(family) for family in FAMILIES])
            taken = np.intersect1d(taken, still)
        offered = set(np.unique(waiting // self.layout.span).tolist())
        has_free = (self._by_relay() == abi.FlowState.FREE).any(axis=1)
        wanted = {number for number in serving if has_free[number]}
        if len(taken) or offered != wanted:
            self.free.take_all()
            self.serving = frozenset(serving)
            self._give_free()
        self.serving = frozenset(serving)

    @property
    def leaving(self) -> dict[int, IPAddress]:
        """Relay addresses of ours, by number, at which nothing new is bound any more."""
        return {
            number: address
            for number, address in self.present.items()
            if number not in self.serving and number not in self.foreign
        }

    def retire(self) -> list[IPAddress]:
        """Lets relay addresses go that are leaving and at which no flow is left, not even one that rests:
        their packets are the host's from now on. Returns them."""
        in_use = (self._by_relay() != abi.FlowState.FREE).any(axis=1)
        gone = [number for number in self.leaving if not in_use[number]]
        addresses = [self.present.pop(number) for number in gone]
        if gone:
            self._locals.put(0, local_table.build(self._served_vips, self.present, self.foreign))
        return addresses

    def flows_at(self, relay: int) -> Array:
        """The records of a relay address, by its number, that are LIVE or may become so."""
        first = relay * self.layout.span
        kinds = (abi.FlowState.LIVE, abi.FlowState.PROVISIONAL)
        return (np.flatnonzero(np.isin(self._by_relay()[relay], kinds)) + first).astype(np.uint32)

    def _by_relay(self) -> Array:
        """The states of records, a row for each relay address."""
        return self.states().reshape(self.layout.relays, self.layout.span)

    def _give_free(self) -> None:
        """Fills empty rings with all that is free where new flows are bound, shuffled."""
        free = np.flatnonzero(self.states() == abi.FlowState.FREE).astype(np.uint32)
        self.give_back(np.random.default_rng().permutation(free))

    def end_flows(self, numbers: Array) -> None:
        """Ends LIVE, PROVISIONAL and SUPERSEDED flows: not one more packet is forwarded by them.

        The records keep their fields, in state DEAD. free_flows gives them back, at least a
        second later, when no CPU can still be looking at them. What is DEAD already may be ended
        again: a daemon that died halfway has left its slot.
        """
        states = self.flows["state"]
        states[numbers] = (states[numbers] & ~np.uint32(STATE_MASK)) | abi.FlowState.DEAD
        flow_index.remove(self.index, self.flows, numbers, self.layout)

    def free_flows(self, numbers: Array) -> None:
        """Makes DEAD records FREE and their relay ports available; others it leaves alone."""
        numbers = np.unique(numbers[(self.flows["state"][numbers] & STATE_MASK) == abi.FlowState.DEAD])
        self.flows[numbers] = np.zeros(1, abi.FLOW)[0]
        self.give_back(numbers)

    def give_back(self, numbers: Array) -> None:
        """Puts numbers of FREE records into their rings, but for those where no new flows are bound, and for
        those that are reserved."""
        numbers = numbers[~np.isin(numbers, self._reserved)]
        families = self._families()[numbers // self.layout.span]
        for family in FAMILIES:
            self.free.give(family, numbers[families == family])

    def reserve(self, numbers: Array) -> None:
        """From now on XDP takes none of these records for new flows, until they are released.

        Raises:
            DatapathError: the program binds too fast for that; nothing has changed.
        """
        self.free.take_all()
        self._reserved = np.union1d(self._reserved, numbers).astype(np.uint32)
        self._give_free()

    def release(self, numbers: Array) -> None:
        """Records that were reserved are as all others."""
        self._reserved = np.setdiff1d(self._reserved, numbers)
        self.give_back(numbers[self.states()[numbers] == abi.FlowState.FREE])

    def lost(self) -> Array:
        """FREE records whose numbers are in no ring: a daemon died before it gave them back, or a CPU
        has taken one just now and not yet begun to fill the record."""
        held = np.zeros(len(self.flows), bool)
        held[self._reserved] = True
        # The rings first: what is given back after that was not FREE before it.
        for family in FAMILIES:
            held[self.free.waiting(family)] = True
        served = np.repeat(self._families() > 0, self.layout.span)
        return np.flatnonzero((self.states() == abi.FlowState.FREE) & served & ~held).astype(np.uint32)

    def _families(self) -> Array:
        """Of relay addresses by number; 0 where no new flows are bound."""
        return np.array(
            [
                address.version if number in self.serving else 0
                for number, address in enumerate(self.relays[: self.layout.relays])
            ]
        )

    def repair_index(self) -> None:
        """Undoes what a daemon that died halfway has left in the index."""
        self.end_flows(np.flatnonzero(self.states() == abi.FlowState.DEAD).astype(np.uint32))
        flow_index.count_again(self.index, self.flows, self.layout)

    # ---- budgets -------------------------------------------------------------------------

    def read_number(self, name: str, index: int) -> int:
        """An entry of an array of 64-bit numbers, by the map's name."""
        raw = libbpf.lookup(self._fds[name], np.uint32(index).tobytes(), 8)
        return int.from_bytes(raw or b"", sys.byteorder)

    def read_numbers_by_cpu(self, name: str) -> list[int]:
        """The only entry of a per-CPU array of such."""
        raw = libbpf.lookup(self._fds[name], bytes(4), 8 * libbpf.possible_cpus()) or b""
        numbers: list[int] = np.frombuffer(raw, np.uint64).tolist()
        return numbers

    # ---- counters ------------------------------------------------------------------------

    def reasons(self) -> Array:
        """Packets and bytes by abi.Reason, summed over CPUs."""
        return self._reasons.read()
