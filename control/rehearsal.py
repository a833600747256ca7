# SPDX-License-Identifier: Apache-2.0
"""What would the program do with a packet? A second copy of it is asked, and nothing that is live is written.

The copy has the constants of the program that runs, and maps of its own. Into these goes what the packet can
reach of the live ones: small maps whole; of the large ones (flows, index, rings, sources) a few entries, in
hashes in place of arrays. Which session it reaches the program itself says: it is run once without any, and
leaves the ufrag that it looked for in its scratch memory. Then it is run again, from the same state.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from control import abi, flow_index, frames, libbpf, loader, map_keys, pinned
from control.abi import Reason
from control.datapath import Datapath
from control.errors import DatapathError
from control.layout import FAMILIES
from control.libbpf import Array
from control.live_program import LiveProgram
from control.map_reader import ARRAY, HASH, LPM_TRIE
from control.maps import MappedArray

_SPARSE_FROM = 4 << 20  # bytes of an array from which on only some entries are copied
_SPARSE_ENTRIES = 256
_MMAPABLE = 1 << 10
# They say nothing about what becomes of a packet, or are filled in another way.
_LEFT_EMPTY = frozenset(
    {"owners_v1", "last_hop_v1", "scratch_v3", "reasons_v1", "bindings_v1", "free_hops_v1", "taps_v1"}
)
_SPARSE = frozenset({"flows_v2", "flow_index_v2", "free_flows_v2", "sources_v2"})
_SESSIONS = 4


class Verdict(NamedTuple):
    """What would happen.

    Attributes:
        action: XDP's, without its prefix.
        frame: as it would leave.
        record: number of the flow record that it would go by; None: it would go by none.
        hop: number of the next hop, likewise.
        made: whether the record would be a new one.
        ufrag: that it named, if the program came so far.
        had_flow: number of the live record that its 5-tuple, or its relay port, has now.
    """

    reason: Reason
    action: str
    frame: bytes
    record: int | None
    hop: int | None
    made: bool
    ufrag: str | None
    had_flow: int | None


class Rehearsal:
    """A copy of the program, for any number of packets."""

    def __init__(self, datapath: Datapath, live: LiveProgram) -> None:
        """
        Raises:
            DatapathError: the installed program does not load, or has other settings than the one that runs.
        """
        self._live_maps = datapath
        self._stack = ExitStack()
        program = self._stack.enter_context(libbpf.BpfObject(pinned.object_path()))
        self._sparse: set[str] = set()
        for shape in program.map_shapes():
            entries = libbpf.map_info(datapath.descriptors[shape.name]).max_entries
            if shape.type == ARRAY and (shape.name in _SPARSE or entries * shape.value_size > _SPARSE_FROM):
                program.make_sparse(shape.name, _SPARSE_ENTRIES)
                self._sparse.add(shape.name)
            else:
                program.set_max_entries(shape.name, _SESSIONS if shape.name == "sessions_v1" else entries)
        try:
            program.set_rodata(live.rodata)
            program.load()
        except (OSError, ValueError) as error:
            self._stack.close()
            raise DatapathError(f"a copy of the program cannot be loaded: {error}") from error
        self._shapes = {shape.name: shape for shape in program.map_shapes()}
        self._fds = {name: program.map_fd(name) for name in self._shapes}
        self._program = program.program_fd(loader.PROGRAM)
        self.is_same = libbpf.program_tag(self._program) == live.tag

    def __enter__(self) -> Rehearsal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def run(self, frame: bytes, ifindex: int) -> Verdict:
        """Lets a frame come in by a link of this network namespace.

        Raises:
            OSError: there is no such link.
        """
        self._fill(frame)
        had = self._serving(frame)
        libbpf.run_program(self._program, frame, ifindex=ifindex)
        ufrag = self._asked_ufrag()
        self._fill(frame)
        if ufrag is not None:
            key = np.array([(ufrag,)], abi.UFRAG_KEY).tobytes()
            session = self._live_maps.sessions.get(key)
            if session is not None:
                libbpf.update(self._fds["sessions_v1"], key, session)
        before = self._records()
        ran = libbpf.run_program(self._program, frame, ifindex=ifindex)
        record, hop = self._gone_by(before)
        return Verdict(
            self._reason(),
            ran.action,
            ran.data,
            record,
            hop,
            record is not None and _state(before[record]) == abi.FlowState.FREE,
            None if ufrag is None else ufrag.decode("ascii", "replace"),
            had,
        )

    # ---- what the packet can reach ---------------------------------------------------------

    def _fill(self, frame: bytes) -> None:
        """All maps as they are live, as far as the packet can tell."""
        for name in self._shapes:
            self._copy(name)
        self._copy_queue()
        spent = max(self._live_maps.read_numbers_by_cpu("bindings_v1"))
        cpus = libbpf.possible_cpus()
        # On whichever CPU it will come: where least is left.
        libbpf.update(self._fds["bindings_v1"], bytes(4), np.full(cpus, spent, np.uint64).tobytes())
        self._copy_reachable(frames.read(frame))

    def _copy(self, name: str) -> None:
        """A map that is copied whole; of others, what former runs have left is taken out."""
        source, copy, shape = self._live_maps.descriptors[name], self._fds[name], self._shapes[name]
        if name in self._sparse or name == "sessions_v1":
            for key in list(libbpf.iterate_keys(copy, shape.key_size)):
                libbpf.delete(copy, key)
        elif name == "free_hops_v1":
            while libbpf.queue_pop(copy) is not None:
                pass
        elif name in _LEFT_EMPTY:
            size = -(-shape.value_size // 8) * 8 * libbpf.possible_cpus()
            if name != "owners_v1":
                for index in range(shape.max_entries):
                    libbpf.update(copy, index.to_bytes(4, sys.byteorder), bytes(size))
        elif shape.type == ARRAY and shape.flags & _MMAPABLE:
            value = np.dtype(f"V{shape.value_size}")
            here, there = MappedArray(copy, value), MappedArray(source, value, writable=False)
            here.array[:] = there.array
            here.close()
            there.close()
        elif shape.type in (ARRAY, HASH, LPM_TRIE):
            live = list(libbpf.iterate_keys(source, shape.key_size))
            if shape.type != ARRAY:
                for key in set(libbpf.iterate_keys(copy, shape.key_size)) - set(live):
                    libbpf.delete(copy, key)
            for key in live:
                found = libbpf.lookup(source, key, shape.value_size)
                if found is not None:
                    libbpf.update(copy, key, found)

    def _copy_queue(self) -> None:
        """The first free hop alone: a packet takes no more than one."""
        first = libbpf.queue_peek(self._live_maps.descriptors["free_hops_v1"])
        if first is not None:
            libbpf.queue_push(self._fds["free_hops_v1"], first)

    def _copy_reachable(self, packet: frames.Packet) -> None:
        if packet.source is None or packet.destination is None:
            return
        live, layout = self._live_maps, self._live_maps.layout
        self._put("sources_v2", [map_keys.source_cell(packet.source.address, layout)])
        buckets: set[int] = set()
        records: set[int] = set()
        if packet.destination in live.vips:
            self._reach(map_keys.flow_key(packet.source, packet.destination, live.vips), buckets, records)
            self._reach_free(FAMILIES.index(packet.source.address.version), records)
        number = self._relay_record(packet)
        if number is not None:
            records.add(number)
            # What makes it live looks for the flow that its client has.
            self._reach(flow_index.keys_of(live.flows, np.array([number], np.uint32)), buckets, records)
        self._put("flow_index_v2", sorted(buckets))
        self._put("flows_v2", sorted(number for number in records if number < len(live.flows)))

    def _reach(self, key: Array, buckets: set[int], records: set[int]) -> None:
        """The buckets that an entry may be in, and all records that they lead to."""
        layout = self._live_maps.layout
        home = int(flow_index.places_of(key.view(np.uint32).reshape(1, -1), layout).buckets[0])
        around = (home + np.arange(abi.SlotBit.TURNS)) % layout.buckets
        buckets.update(around.tolist())
        records.update(flow_index.numbers_in(self._live_maps.index[around]).tolist())

    def _reach_free(self, family: int, records: set[int]) -> None:
        """The record that a new flow would get."""
        raw = libbpf.lookup(
            self._live_maps.descriptors["free_lists_v1"],
            family.to_bytes(4, sys.byteorder),
            abi.FREE_LIST.itemsize,
        )
        ring: Any = np.frombuffer(raw or bytes(abi.FREE_LIST.itemsize), abi.FREE_LIST)[0]
        line, place = divmod(int(ring["first"]) + int(ring["head"]), abi.FREE_LINE["numbers"].shape[0])
        self._put("free_flows_v2", [line])
        numbers = libbpf.lookup(
            self._live_maps.descriptors["free_flows_v2"],
            line.to_bytes(4, sys.byteorder),
            abi.FREE_LINE.itemsize,
        )
        if numbers is not None:
            records.add(int(np.frombuffer(numbers, np.uint32)[place]))

    def _relay_record(self, packet: frames.Packet) -> int | None:
        """The record of the relay port that a packet is for."""
        live, end = self._live_maps, packet.destination
        if end is None or end.address not in live.relays:
            return None
        if not live.layout.port_min <= end.port <= live.layout.port_max:
            return None
        number = live.layout.number(live.relays.index(end.address), end.port)
        return number if number < len(live.flows) else None

    def _put(self, name: str, indices: list[int]) -> None:
        """Entries of an array into the copy of it."""
        source, size = self._live_maps.descriptors[name], self._shapes[name].value_size
        for index in indices:
            key = index.to_bytes(4, sys.byteorder)
            value = libbpf.lookup(source, key, size)
            if value is not None:
                libbpf.update(self._fds[name], key, value)

    # ---- what came of it -------------------------------------------------------------------

    def _records(self) -> dict[int, Any]:
        keys, values = libbpf.read_hash(self._fds["flows_v2"], "=u4", abi.FLOW)
        return dict(zip(keys.tolist(), values, strict=True))

    def _serving(self, frame: bytes) -> int | None:
        """The record that is there for the packet now."""
        packet = frames.read(frame)
        if packet.source is None:
            return None
        live_only: NDArray[np.uint32]
        if packet.destination in self._live_maps.vips and packet.destination is not None:
            key = map_keys.flow_key(packet.source, packet.destination, self._live_maps.vips)
            live_only = map_keys.records_of(key, self._live_maps)
            states = self._live_maps.flows["state"][live_only] & ((1 << abi.FLOW_STATE_BITS) - 1)
            live_only = live_only[states == abi.FlowState.LIVE]
            return int(live_only[0]) if len(live_only) else None
        number = self._relay_record(packet)
        if number is None or not self._live_maps.flows["state"][number]:
            return None
        return number

    def _asked_ufrag(self) -> bytes | None:
        cpus, size = libbpf.possible_cpus(), -(-abi.SCRATCH.itemsize // 8) * 8
        raw = libbpf.lookup(self._fds["scratch_v3"], bytes(4), cpus * size) or b""
        for cpu in range(cpus):
            scratch: Any = np.frombuffer(raw[cpu * size :][: abi.SCRATCH.itemsize], abi.SCRATCH)[0]
            if ufrag := bytes(scratch["ufrag"].tobytes()).rstrip(b"\0"):
                return ufrag
        return None

    def _gone_by(self, before: dict[int, Any]) -> tuple[int | None, int | None]:
        """The record that has counted the packet, and the next hop."""
        for number, after in self._records().items():
            was = before[number]
            if after["up_packets"] != was["up_packets"] or after["up_bytes"] != was["up_bytes"]:
                return number, int(self._live_maps.backends["hop"][int(after["backend"])])
            if after["down_packets"] != was["down_packets"] or after["down_bytes"] != was["down_bytes"]:
                return number, int(after["client_hop"])
        return None, None

    def hop(self, number: int) -> Any:
        """A next hop as the copy has it: one that the packet would make is there."""
        raw = libbpf.lookup(self._fds["hops_v1"], number.to_bytes(4, sys.byteorder), abi.HOP.itemsize)
        return np.frombuffer(raw or bytes(abi.HOP.itemsize), abi.HOP)[0]

    def record(self, number: int) -> Any:
        """A flow record as the copy has it."""
        return self._records()[number]

    def session(self, ufrag: str) -> Any:
        """The session of a ufrag, one abi.SESSION; None: there is none."""
        raw = self._live_maps.sessions.get(np.array([(ufrag.encode(),)], abi.UFRAG_KEY).tobytes())
        return None if raw is None else np.frombuffer(raw, abi.SESSION)[0]

    def _reason(self) -> Reason:
        from control.maps import PerCpuArray

        counted = np.flatnonzero(PerCpuArray(self._fds["reasons_v1"], abi.REASON_COUNTER).read()["packets"])
        return Reason(int(counted[0]))


def _state(record: Any) -> int:
    return int(record["state"]) & ((1 << abi.FLOW_STATE_BITS) - 1)
