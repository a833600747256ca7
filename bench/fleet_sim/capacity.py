# SPDX-License-Identifier: Apache-2.0
"""What a fleet needs of each thing it has, by arithmetic, and which is spent first as calls become more.

The parts that move are simulated (`scenarios`); a test holds what they used against what is added up here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

from bench.fleet_sim.assumptions import Assumptions
from bench.fleet_sim.directory import also_us
from bench.fleet_sim.fleets import Fleet

GIB = float(1 << 30)
MOST_CALLS = 10**12


@dataclass(frozen=True)
class Rates:
    """How often things happen, a second; of the whole region where nothing else is said."""

    starts: float
    changes: float  # of the directory: sessions that come and go, or transceivers
    append_commands: float
    read_commands: float
    read_entries: float
    messages: float  # in the stream of sessions, beats among them
    lease_commands: float
    relay_packets: float
    relay_flow_changes: float  # flows that a relay binds or ends
    relay_replication_bytes: float  # that a relay sends, and reads of its group's stream


class Use(NamedTuple):
    """How much of something is used, of what there is; `lost`: when one member of each group is gone."""

    what: str
    used: float
    limit: float
    unit: str
    lost: float

    @property
    def share(self) -> float:
        return self.lost / self.limit


TRANSCEIVERS = "region: transceivers"
NEXT_STEP = {
    TRANSCEIVERS: "more regions; or a higher limit: numbers of transceivers in ufrags have 16 bits",
    "relay: CPU for packets": "more relays, or more cores of each",
    "relay: NIC": "more relays, or a second port; silence left out by the codec (DTX) halves it",
    "relay: addresses in the flow table": "smaller groups: a relay then holds fewer others' flows",
    "relay: memory": "smaller groups, more regions; or routable ufrags",
    "relay: earshotd's CPU": "more regions: fewer sessions to hear of; or routable ufrags: none",
    "Redis: CPU": "more regions, or a directory for each group of relays; or routable ufrags",
    "Redis: NIC": "the same: each change leaves once for each relay that is told",
    "Redis: memory": "shards by ufrag, or routable ufrags",
}


def rates(fleet: Fleet, a: Assumptions) -> Rates:
    """How often what happens."""
    starts = fleet.region_calls / a.call_seconds
    sessions = 0.0 if fleet.routable else 2 * starts
    changes = sessions + 2 * fleet.region_transceivers / a.transceiver_seconds
    relays = fleet.region_relays
    # A relay flushes where it has something, and reads where there is something.
    flushes = relays / a.flush_seconds * -math.expm1(-changes / relays * a.flush_seconds)
    reads = relays / a.pause_seconds * -math.expm1(-changes * a.pause_seconds)
    flow_changes = 2 * starts * a.bindings_per_call / relays
    flow_bytes = flow_changes * a.record_bytes + a.message_bytes / a.scan_seconds
    return Rates(
        starts=starts,
        changes=changes,
        append_commands=flushes,
        read_commands=reads,
        read_entries=changes * relays,
        messages=flushes + relays / a.beat_seconds,
        lease_commands=relays * (1 / a.renew_seconds + 1 / a.watch_seconds),
        relay_packets=fleet.relay_calls * 2 * a.packets_per_second,
        relay_flow_changes=flow_changes,
        relay_replication_bytes=(1 + fleet.group) * flow_bytes if fleet.group > 1 else 0.0,
    )


def packet_ns(flows: float, a: Assumptions) -> float:
    """What a packet takes in a table of so many live flows: between what was measured, by the logarithm."""
    points = [(3.0, a.packet_ns_1k), (5.0, a.packet_ns_100k), (math.log10(1_032_192), a.packet_ns_1m)]
    at = math.log10(max(flows, 1000.0))
    for (low, below), (high, above) in pairwise(points):
        if at <= high:
            return below + (above - below) * (at - low) / (high - low)
    return points[-1][1]


def relay_memory(fleet: Fleet, a: Assumptions) -> dict[str, float]:
    """Bytes of one relay, by what they are for."""
    own = fleet.relay_calls
    return {
        "own flows": own * a.room * a.flow_bytes,
        "foreign flows": own * (fleet.group - 1) * a.room * a.flow_bytes,
        "sessions": (own if fleet.routable else fleet.region_calls) * a.session_bytes,
        "transceivers": fleet.region_transceivers * a.owner_bytes,
        "the rest": a.fixed_bytes,
    }


def redis_memory(fleet: Fleet, a: Assumptions) -> float:
    """Bytes of a region's Redis."""
    kept = fleet.region_transceivers + (0 if fleet.routable else fleet.region_calls)
    return kept * a.kept_session_bytes + a.stream_messages * a.slice_entries * a.stream_entry_bytes


def history_seconds(fleet: Fleet, a: Assumptions) -> float:
    """How far back the stream goes: a relay that was away for longer reads whole states."""
    return a.stream_messages / rates(fleet, a).messages


def redis_cpu(fleet: Fleet, a: Assumptions) -> float:
    """Share of Redis' one thread."""
    r = rates(fleet, a)
    commands = r.append_commands + r.read_commands
    changes = commands * a.command_us + r.changes * (a.append_us + a.keep_us) + r.read_entries * a.read_us
    relays = fleet.region_relays
    held = fleet.region_transceivers / a.beat_seconds * a.held_bytes / a.entry_bytes
    beats = also_us(a, relays / a.beat_seconds, r.lease_commands, held, relays)
    scans = relays / a.scan_seconds if fleet.group > 1 else 0.0
    flows = also_us(a, scans, 0, _told_bytes(fleet, a) * relays / a.entry_bytes, fleet.group)
    return 1e-6 * (changes + beats + flows)


def redis_bytes(fleet: Fleet, a: Assumptions) -> float:
    """What leaves a region's Redis, a second."""
    held = fleet.region_transceivers / a.beat_seconds * a.held_bytes * fleet.region_relays
    flows = _told_bytes(fleet, a) * fleet.region_relays * fleet.group
    return rates(fleet, a).read_entries * a.entry_bytes + held + flows


def _told_bytes(fleet: Fleet, a: Assumptions) -> float:
    """Of its flows, that a relay tells its group, a second."""
    return rates(fleet, a).relay_replication_bytes / (1 + fleet.group)


def daemon_cpu(fleet: Fleet, a: Assumptions) -> float:
    """Share of the one core that an earshotd works on."""
    r = rates(fleet, a)
    own = 2 * r.starts / fleet.region_relays
    foreign = r.changes * (1 - 1 / fleet.region_relays)
    peers, others = fleet.group - 1, 1 - 1 / fleet.region_relays
    messages = r.append_commands * others + fleet.region_relays / a.beat_seconds + peers / a.scan_seconds
    held = fleet.region_transceivers / a.beat_seconds * a.held_us
    flows = peers * r.relay_flow_changes * a.foreign_us
    return 1e-6 * ((own + foreign) * a.register_us + messages * a.message_us + held + flows)


def uses(fleet: Fleet, a: Assumptions) -> Iterator[Use]:
    """Everything that a fleet may run out of."""
    r = rates(fleet, a)
    more = (
        fleet.group / (fleet.group - 1) if fleet.group > 1 else 1.0
    )  # for who has a lost member's calls, too
    bindings = r.relay_flow_changes / 2 * (a.bind_routable_ns if fleet.routable else a.bind_ns)

    def packets(calls: float) -> float:
        return 1e-9 * (calls * 2 * a.packets_per_second * packet_ns(calls, a) + bindings)

    own = fleet.relay_calls
    yield Use("relay: CPU for packets", packets(own), a.relay_cores, "cores", packets(own * more))
    gbit = r.relay_packets * a.packet_bytes * 8e-9 + r.relay_replication_bytes * 8e-9
    yield Use("relay: NIC", gbit, a.relay_nic_gbit, "Gbit/s", gbit * more)
    addresses = fleet.group * max(1, math.ceil(own * a.room / a.ports_per_address))
    yield Use("relay: addresses in the flow table", addresses, a.relay_addresses, "addresses", addresses)
    memory = sum(relay_memory(fleet, a).values()) / GIB
    yield Use("relay: memory", memory, a.relay_memory_gib, "GiB", memory)
    daemon = daemon_cpu(fleet, a)
    yield Use("relay: earshotd's CPU", daemon, 1.0, "cores", daemon)
    yield Use(TRANSCEIVERS, fleet.region_transceivers, a.most_transceivers, "", fleet.region_transceivers)
    redis = redis_cpu(fleet, a)
    yield Use("Redis: CPU", redis, 1.0, "cores", redis)
    wire = redis_bytes(fleet, a) * 8e-9
    yield Use("Redis: NIC", wire, a.redis_nic_gbit, "Gbit/s", wire)
    kept = redis_memory(fleet, a) / GIB
    yield Use("Redis: memory", kept, a.redis_memory_gib, "GiB", kept)
    cores = fleet.calls / fleet.transceivers / a.sessions_per_core
    yield Use("transceiver: cores", cores, a.transceiver_cores, "cores", cores)


def spent_at(fleet: Fleet, a: Assumptions) -> dict[str, int]:
    """For each thing, how many calls of as many relays and transceivers spend it; or MOST_CALLS."""
    return {use.what: _calls_that_spend(fleet, a, use.what) for use in uses(fleet, a)}


def _calls_that_spend(fleet: Fleet, a: Assumptions, what: str) -> int:
    def spent(calls: int) -> bool:
        return next(u for u in uses(replace(fleet, calls=calls), a) if u.what == what).share > 1

    low, high = 0, 1
    while not spent(high):
        low, high = high, 2 * high
        if high > MOST_CALLS:
            return MOST_CALLS
    while high - low > max(1, low // 1000):
        middle = (low + high) // 2
        low, high = (low, middle) if spent(middle) else (middle, high)
    return low


def joining_seconds(fleet: Fleet, a: Assumptions) -> float:
    """How long earshotd of a relay that comes with nothing takes to know what others know."""
    known = fleet.region_transceivers + (0 if fleet.routable else fleet.region_calls)
    return 1e-6 * (known * a.bulk_us + (fleet.group - 1) * fleet.relay_calls * a.foreign_us)
