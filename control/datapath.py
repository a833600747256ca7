# SPDX-License-Identifier: Apache-2.0
"""The maps of a loaded program, with types and with what the daemon does to them.

Made by control/loader.py. Whoever writes here is the daemon, one process per host; anyone
may read.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network

import numpy as np

from control import abi, flow_index, libbpf, local_table
from control.addresses import Endpoint, IPAddress, from_bytes, to_bytes
from control.errors import DatapathError
from control.free_lists import FreeLists
from control.layout import FAMILIES, Layout
from control.libbpf import Array
from control.maps import ArrayMap, HashMap, MappedArray, PerCpuArray, Queue

STATE_MASK = (1 << abi.FLOW_STATE_BITS) - 1
_MAPPED = {
    "flows_v2": abi.FLOW,
    "flow_index_v2": abi.BUCKET,
    "free_flows_v2": abi.FREE_LINE,
    "free_lists_v1": abi.FREE_LIST,
    "backends_v1": abi.BACKEND,
    "hops_v1": abi.HOP,
}


class Datapath:
    """The kernel's side as one object.

    flows, index, backends and hops are the kernel's own memory: reads see what XDP writes, and
    writes are seen by the next packet.

    Attributes:
        vips, relays: by the number that flows and records name them with.
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
        self.index = flow_index.words_of(arrays["flow_index_v2"])
        self.free = FreeLists(arrays["free_lists_v1"], arrays["free_flows_v2"])
        self.sessions = HashMap(fds["sessions_v1"], abi.UFRAG_KEY, abi.SESSION)
        self.hop_index = HashMap(fds["hop_index_v1"], abi.HOP_KEY, "=u4")
        self.links = HashMap(fds["links_v1"], "=u4", abi.LINK_INFO)
        self.free_hops = Queue(fds["free_hops_v1"])
        self._exempt = HashMap(fds["exempt_v1"], abi.PREFIX_KEY, "=u1")
        self._owners = ArrayMap(fds["owners_v1"], abi.OWNER)
        self._vips = ArrayMap(fds["vips_v1"], abi.VIP)
        self._relays = ArrayMap(fds["relays_v1"], abi.RELAY)
        self._locals = ArrayMap(fds["locals_v2"], abi.LOCALS)
        self._layouts = ArrayMap(fds["layout_v1"], abi.LAYOUT)
        self._reasons = PerCpuArray(fds["reasons_v1"], abi.REASON_COUNTER)
        self._read_addresses()
        self._layout = Layout.of_record(self._layouts.get(0))

    @property
    def descriptors(self) -> Mapping[str, int]:
        """Of all maps, by name."""
        return self._fds

    def close(self) -> None:
        """Lets go of the maps. What is pinned or attached stays."""
        del self.flows, self.index, self.free, self.backends, self.hops
        for mapping in self._mappings.values():
            mapping.close()
        for fd in self._fds.values():
            os.close(fd)
        self._fds = {}

    def fill_free_hops(self) -> None:
        """Makes all hops of new maps available."""
        for number in range(1, abi.HOP_MAX):
            self.free_hops.push(number)

    # ---- addresses -----------------------------------------------------------------------

    def set_addresses(self, vips: Mapping[int, Endpoint], relays: Mapping[int, IPAddress]) -> None:
        """Enters VIPs and relay addresses by their numbers, and makes them known to the program.

        Entries that are not named any more keep their place, since flows may still refer to
        them, but no new packet is taken for them.
        """
        for number, vip in vips.items():
            record = np.zeros(1, abi.VIP)
            record["addr"], record["port"] = np.void(to_bytes(vip.address)), vip.port
            self._vips.put(number, record)
        for number, address in relays.items():
            record = np.zeros(1, abi.RELAY)
            record["addr"] = np.void(to_bytes(address))
            self._relays.put(number, record)
        self._locals.put(0, local_table.build(vips, relays))
        self._read_addresses()

    def _read_addresses(self) -> None:
        vips = [vip for vip in self._vips.read() if vip["port"]]
        relays = [relay for relay in self._relays.read() if any(relay["addr"].tobytes())]
        self.vips = [Endpoint(from_bytes(vip["addr"].tobytes()), int(vip["port"])) for vip in vips]
        self.relays = [from_bytes(relay["addr"].tobytes()) for relay in relays]

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

    def read_owners(self) -> Array:
        """All owners by number; one with an empty name is not used."""
        return self._owners.read()

    def put_owner(self, number: int, owner: Array) -> None:
        self._owners.put(number, owner)

    # ---- flows ---------------------------------------------------------------------------

    def states(self) -> Array:
        """Each record's enum flow_state."""
        return self.flows["state"] & STATE_MASK

    def capacity(self) -> int:
        """Flows that fit: the ports of all relay addresses."""
        return self.layout.records

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

    def lay_out(self, layout: Layout) -> None:
        """Makes new maps a flow table, in which records that are not FREE are in use already.

        After set_addresses: families follow from those. What tells that it is done is written last.
        """
        relay_of = np.arange(layout.records, dtype=np.uint32) // layout.span
        families = np.array([address.version for address in self.relays])[relay_of]
        numbers = {family: np.flatnonzero(families == family).astype(np.uint32) for family in FAMILIES}
        self.free.lay_out({family: len(numbers[family]) for family in FAMILIES})
        generator = np.random.default_rng()
        states = self.states()
        for family in FAMILIES:
            free = numbers[family][states[numbers[family]] == abi.FlowState.FREE]
            self.free.give(family, generator.permutation(free))
        self._layouts.put(0, layout.record())
        self._layout = layout

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
        """Puts the numbers of FREE records into their rings."""
        versions = np.array([address.version for address in self.relays])[numbers // self.layout.span]
        for family in FAMILIES:
            self.free.give(family, numbers[versions == family])

    def lost(self) -> Array:
        """FREE records whose numbers are in no ring: a daemon died before it gave them back, or a CPU
        has taken one just now and not yet begun to fill the record."""
        held = np.zeros(len(self.flows), bool)
        # The rings first: what is given back after that was not FREE before it.
        for family in FAMILIES:
            held[self.free.waiting(family)] = True
        return np.flatnonzero((self.states() == abi.FlowState.FREE) & ~held).astype(np.uint32)

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
