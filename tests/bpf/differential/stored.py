# SPDX-License-Identifier: Apache-2.0
"""The model's objects as the maps have them, and back; the host's routes as the model has them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import Any

import numpy as np

from control import abi
from control.addresses import to_bytes
from control.hmac_keys import key_states
from control.libbpf import Array
from control.maps import Queue
from tests.bpf.rig import Rig, delta
from tests.model.daemon import Told
from tests.model.fib import Fib, Route, Rule
from tests.model.state import Endpoint, FlowKey, Life, Record, Resolved, Session, State

NOT_SEEN = 12345  # what last_seen is set to before each packet

Facts = dict[str, object]

LIVES = {
    Life.FREE: abi.FlowState.FREE,
    Life.BINDING: abi.FlowState.BINDING,
    Life.LIVE: abi.FlowState.LIVE,
    Life.SUPERSEDED: abi.FlowState.SUPERSEDED,
    Life.DEAD: abi.FlowState.DEAD,
    Life.PROVISIONAL: abi.FlowState.PROVISIONAL,
}
RESOLVED = {
    Resolved.NO: abi.HopState.UNRESOLVED,
    Resolved.YES: abi.HopState.RESOLVED,
    Resolved.PROVISIONALLY: abi.HopState.PROVISIONAL,
}


def as_stored(state: State, number: int, record: Record) -> Facts:
    """A record's fields as the map has them, but for when its last packet came."""
    word = int(LIVES[record.life]) | (record.second or 0) << abi.FLOW_STATE_BITS
    if record.key is None:
        return {"state": word}
    client, vip = record.key.client, state.vips[record.key.vip]
    relay = state.relay_endpoint(number)
    # The deltas are what the way to the transceiver adds to a sum of words.
    known = state.backends.get(record.backend)
    backend = known.endpoint if known else relay
    new, old = relay.address.packed + backend.address.packed, client.address.packed + vip.address.packed
    return {
        "client_addr": to_bytes(client.address),
        "client_port": client.port,
        "vip": record.key.vip,
        "backend": record.backend,
        "client_hop": record.hop,
        "session": record.session,
        "state": word,
        "ip_delta": delta(new, old),
        "udp_delta": delta(
            new + _ports(relay, backend),
            old + _ports(client, vip),
        ),
        "up_packets": record.up.packets,
        "up_bytes": record.up.bytes,
        "down_packets": record.down.packets,
        "down_bytes": stored_transaction(record.transaction) if record.transaction else record.down.bytes,
    }


def read_record(row: np.void) -> Facts:
    facts: Facts = {
        name: int(row[name])
        for name in abi.FLOW.names or ()
        if name not in ("client_addr", "state", "last_seen", "ip_delta", "udp_delta")
    }
    return facts | {
        "client_addr": row["client_addr"].tobytes(),
        "state": int(row["state"]),
        # Both zeros of one's complement are the same.
        "ip_delta": int(row["ip_delta"]) % 0xFFFF,
        "udp_delta": int(row["udp_delta"]) % 0xFFFF,
        "seen": int(row["last_seen"]) not in (0, NOT_SEEN),
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


def stored_foreign(told: Sequence[Told]) -> Array:
    """Flows of other relays as the program takes them."""
    flows = np.zeros(len(told), abi.FOREIGN)
    for flow, one in zip(flows, told, strict=True):
        flow["client_addr"], flow["client_port"] = np.void(to_bytes(one.client.address)), one.client.port
        flow["vip"], flow["number"], flow["session"] = one.vip, one.record, one.session
        flow["backend"], flow["second"] = one.backend, one.second
    return flows


def stored_key(key: FlowKey) -> bytes:
    return to_bytes(key.client.address) + key.client.port.to_bytes(2, "big") + np.uint16(key.vip).tobytes()


def stored_transaction(transaction: bytes) -> int:
    """A record has room for 8 of the 12 bytes."""
    return int.from_bytes(transaction[:8], sys.byteorder)


def _ports(source: Endpoint, destination: Endpoint) -> bytes:
    return source.port.to_bytes(2, "big") + destination.port.to_bytes(2, "big")


def used_rows(rows: Array) -> list[int]:
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
