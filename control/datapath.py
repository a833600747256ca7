# SPDX-License-Identifier: Apache-2.0
"""The maps of a loaded program, with types and with what the daemon does to them.

Made by control/loader.py. Whoever writes here is the daemon, one process per host; anyone
may read.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network

import numpy as np

from control import abi, local_table
from control.addresses import Endpoint, IPAddress, from_bytes, to_bytes
from control.libbpf import BPF_NOEXIST, Array
from control.maps import ArrayMap, HashMap, MappedArray, PerCpuArray, Queue

STATE_MASK = (1 << abi.FLOW_STATE_BITS) - 1


class Datapath:
    """The kernel's side as one object.

    flows, backends and hops are the kernel's own memory: reads see what XDP writes, and
    writes are seen by the next packet.

    Attributes:
        vips, relays: by the number that flows and records name them with.
        port_min, port_max, port_bits: a record's number is the number of its relay address
            << port_bits | (port - port_min).
    """

    def __init__(self, fds: Mapping[str, int], *, writable: bool = True) -> None:
        """Takes over the descriptors, by map name."""
        self._fds = dict(fds)
        self._mappings = [
            MappedArray(fds[name], dtype, writable=writable)
            for name, dtype in (("flows_v1", abi.FLOW), ("backends_v1", abi.BACKEND), ("hops_v1", abi.HOP))
        ]
        self.flows, self.backends, self.hops = (mapping.array for mapping in self._mappings)
        self.sessions = HashMap(fds["sessions_v1"], abi.UFRAG_KEY, abi.SESSION)
        self.flow_index = HashMap(fds["flow_index_v1"], abi.FLOW_KEY, "=u4")
        self.hop_index = HashMap(fds["hop_index_v1"], abi.HOP_KEY, "=u4")
        self.links = HashMap(fds["links_v1"], "=u4", abi.LINK_INFO)
        self.free_hops = Queue(fds["free_hops_v1"])
        self._free_flows = {4: Queue(fds["free_flows4_v1"]), 6: Queue(fds["free_flows6_v1"])}
        self._exempt = HashMap(fds["exempt_v1"], abi.PREFIX_KEY, "=u1")
        self._owners = ArrayMap(fds["owners_v1"], abi.OWNER)
        self._vips = ArrayMap(fds["vips_v1"], abi.VIP)
        self._relays = ArrayMap(fds["relays_v1"], abi.RELAY)
        self._locals = ArrayMap(fds["locals_v1"], abi.LOCALS)
        self._reasons = PerCpuArray(fds["reasons_v1"], abi.REASON_COUNTER)
        self._read_addresses()

    @property
    def descriptors(self) -> Mapping[str, int]:
        """Of all maps, by name."""
        return self._fds

    def close(self) -> None:
        """Lets go of the maps. What is pinned or attached stays."""
        del self.flows, self.backends, self.hops
        for mapping in self._mappings:
            mapping.close()
        for fd in self._fds.values():
            os.close(fd)
        self._fds = {}

    # ---- addresses -----------------------------------------------------------------------

    def set_addresses(
        self,
        vips: Mapping[int, Endpoint],
        relays: Mapping[int, IPAddress],
        ports: tuple[int, int],
        port_bits: int,
    ) -> None:
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
        self._locals.put(0, local_table.build(vips, relays, ports, port_bits))
        self._read_addresses()

    def _read_addresses(self) -> None:
        table = self._locals.get(0)[0]
        self.port_min, self.port_max = int(table["port_min"]), int(table["port_max"])
        self.port_bits = int(table["port_bits"])
        vips = [vip for vip in self._vips.read() if vip["port"]]
        relays = [relay for relay in self._relays.read() if any(relay["addr"].tobytes())]
        self.vips = [Endpoint(from_bytes(vip["addr"].tobytes()), int(vip["port"])) for vip in vips]
        self.relays = [from_bytes(relay["addr"].tobytes()) for relay in relays]

    def relay_endpoint(self, number: int) -> Endpoint:
        """The relay address and port of a flow record: what its transceiver sees."""
        port = self.port_min + (number & ((1 << self.port_bits) - 1))
        return Endpoint(self.relays[number >> self.port_bits], port)

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
        return len(self.relays) * (self.port_max - self.port_min + 1)

    def end_flows(self, numbers: Array) -> None:
        """Ends LIVE, PROVISIONAL and SUPERSEDED flows: not one more packet is forwarded by them.

        The records keep their fields, in state DEAD. free_flows gives them back, at least a
        second later, when no CPU can still be looking at them.
        """
        states = self.flows["state"]
        keys = self._index_keys(numbers)  # before the state says nothing about them any more
        states[numbers] = (states[numbers] & ~np.uint32(STATE_MASK)) | abi.FlowState.DEAD
        for key, number in zip(keys, numbers, strict=True):
            # A newer record may have the key by now: its entry is not ours to remove.
            if self.flow_index.get(key.tobytes()) == np.uint32(number).tobytes():
                self.flow_index.delete(key.tobytes())

    def claim_index(self, number: int) -> bool:
        """Whether the index leads to a record; where it leads nowhere, it does from now on."""
        key, value = self._index_keys(np.array([number], np.uint32)).tobytes(), np.uint32(number).tobytes()
        with contextlib.suppress(FileExistsError):
            self.flow_index.put(key, value, BPF_NOEXIST)
        return self.flow_index.get(key) == value

    def _index_keys(self, numbers: Array) -> Array:
        """The keys under which records are, or ought to be, in the index."""
        keys = np.zeros(len(numbers), abi.FLOW_KEY)
        for field in ("client_addr", "client_port", "vip"):
            keys[field] = self.flows[field][numbers]
        provisional = (self.flows["state"][numbers] & STATE_MASK) == abi.FlowState.PROVISIONAL
        keys["vip"][provisional] |= abi.PROVISIONAL_KEY
        return keys

    def free_flows(self, numbers: Array) -> None:
        """Makes DEAD records FREE and their relay ports available."""
        self.flows[numbers] = np.zeros(1, abi.FLOW)[0]
        for number in numbers.tolist():
            self._push_free(number)

    def refill_free_flows(self) -> None:
        """Makes the queues hold just the numbers of FREE records, shuffled.

        For a start: an earlier daemon may have died between freeing a record and queueing
        its number. A number that is queued twice is harmless, since binding swaps the
        record's state; one that is not queued is lost. Hence emptied first, then filled.
        """
        for queue in self._free_flows.values():
            for _ in range(len(self.flows) + 1):
                if queue.pop() is None:
                    break
        span = self.port_max - self.port_min + 1
        numbers = [
            relay << self.port_bits | port for relay in range(len(self.relays)) for port in range(span)
        ]
        free = self.states() == abi.FlowState.FREE
        numbers = [number for number in numbers if free[number]]
        random.shuffle(numbers)
        for number in numbers:
            self._push_free(number)

    def _push_free(self, number: int) -> None:
        self._free_flows[self.relays[number >> self.port_bits].version].push(number)

    # ---- counters ------------------------------------------------------------------------

    def reasons(self) -> Array:
        """Packets and bytes by abi.Reason, summed over CPUs."""
        return self._reasons.read()
