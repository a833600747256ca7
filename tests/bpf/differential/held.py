# SPDX-License-Identifier: Apache-2.0
"""What the model holds, and what the maps hold, in the same words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from control.addresses import to_bytes
from tests.bpf import world
from tests.bpf.differential.stored import RESOLVED, Facts, as_stored, peek, read_record, used_rows
from tests.bpf.rig import Rig, earliest
from tests.model.state import Hop, Life, State


def model_facts(state: State, removed: int) -> Facts:
    """What the model holds; removed: what the daemon has counted in the index."""
    facts: Facts = {
        "index": sorted(state.entered),
        "locked": state.is_locked,
        "counted by the daemon": removed,
        "hop index": {
            (to_bytes(address), link): number for (address, link), number in state.hop_index.items()
        },
        "free records 4": list(state.free_records[4]),
        "free records 6": list(state.free_records[6]),
        "free hops": list(state.free_hops),
    }
    facts["sources"] = dict.fromkeys(state.source_budget.buckets, "charged")
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


def program_facts(rig: Rig, names: Mapping[int, str]) -> Facts:
    """What the maps hold; names: of links, by their numbers."""
    datapath = rig.datapath
    hop_keys, hop_numbers = datapath.hop_index.read()
    facts: Facts = {
        "index": [number for number in rig.entries.read() if number != world.ABSENT_RECORD],
        "locked": bool(rig.entries.locked()),
        "counted by the daemon": sum(rig.entries.removed()),
        "hop index": {
            (key["neighbour"].tobytes(), names[int(key["ifindex"])]): int(number)
            for key, number in zip(hop_keys, hop_numbers, strict=True)
        },
        "free records 4": datapath.free.waiting(4).tolist(),
        "free records 6": datapath.free.waiting(6).tolist(),
        "free hops": peek(datapath.free_hops),
    }
    facts["sources"] = dict.fromkeys(rig.sources(), "charged")
    now = earliest()
    facts["session budgets"] = {
        str(bytes(key["ufrag"])): round((int(session["full_at"]) - now) / world.SESSION_INTERVAL)
        for key, session in zip(*datapath.read_sessions(), strict=True)
        if session["full_at"] > now
    } | {
        str(cell): round((full_at - now) / world.SESSION_INTERVAL)
        for cell, full_at in rig.derived().items()
        if full_at > now
    }
    flows = datapath.flows
    for number in used_rows(flows):
        facts[f"record {number}"] = read_record(flows[number])
    for number in used_rows(datapath.hops):
        if not number:
            continue  # no hop
        facts[f"hop {number}"] = read_hop(datapath.hops[number], names)
    return facts


def read_hop(row: np.void, names: Mapping[int, str]) -> Hop:
    link = names.get(int(row["ifindex"]), "")
    resolved = next(mine for mine, stored in RESOLVED.items() if stored == row["resolved"])
    return Hop(link, row["smac"].tobytes(), row["dmac"].tobytes(), int(row["mtu"]), resolved)


def differences(expected: Facts, actual: Facts, of: str = "") -> Iterator[str]:
    """Of all facts that are not the same, one entry each."""
    for name in expected | actual:
        said, did = expected.get(name, "none"), actual.get(name, "none")
        if isinstance(said, dict) and isinstance(did, dict):
            yield from differences(said, did, f"{of}{name}, ")
        elif said != did:
            yield f"  {of}{name}:\n    model:   {said}\n    program: {did}"
