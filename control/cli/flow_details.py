# SPDX-License-Identifier: Apache-2.0
"""Everything that is known of one flow: for `earshot flow show`, and the call's screen of `earshot top`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from control import abi, last_drop, live_program, map_keys
from control.abi import HopState
from control.addresses import from_bytes, parse_endpoint
from control.cli import flow_quality, flow_rows
from control.cli.options import now
from control.cli.output import Row
from control.cli.session_table import SessionTable
from control.datapath import Datapath
from control.errors import DatapathError
from control.live_program import LiveProgram
from control.units import in_bytes, in_milliseconds, in_time

INDENT = 14  # of what stands behind a line's name


def details(datapath: Datapath, pin_path: Path, flow_id: int, sessions: SessionTable) -> Row | None:
    """As JSON shows it; None: there is no such flow, or not any more."""
    moment = now()
    numbers = flow_rows.find(datapath.flows, flow_id)
    row = next(flow_rows.rows(datapath, numbers, sessions, moment), None)
    if row is None:
        return None
    number = int(numbers[0])
    record: Any = datapath.flows[number].copy()
    try:
        program = live_program.read(pin_path)
    except (DatapathError, OSError):
        program = None
    backend = int(datapath.backends["hop"][int(record["backend"])])
    ways = _ways(datapath)
    session = _session(datapath, int(record["session"]), sessions)
    idle_limit = program.idle_seconds if program else None
    return {
        **row,
        "record": number,
        "client_hop": _hop(datapath, int(record["client_hop"]), ways),
        "transceiver_hop": _hop(datapath, backend, ways),
        "ends_in_seconds": None
        if idle_limit is None
        else max(0, round(idle_limit - row["idle_milliseconds"] / 1000)),
        "session": session,
        "owner": _owner(sessions, row["transceiver"]),
        "budgets": None if program is None else _budgets(datapath, program, record, session),
        "quality": flow_quality.details(datapath, number, moment),
        "last_drop": _last_drop(datapath, row),
    }


def _ways(datapath: Datapath) -> dict[int, str]:
    """Neighbours by number of the next hop."""
    keys, numbers = datapath.hop_index.read()
    return {
        number: str(from_bytes(key["neighbour"].tobytes()))
        for key, number in zip(keys, numbers.tolist(), strict=True)
    }


def _hop(datapath: Datapath, number: int, ways: dict[int, str]) -> Row | None:
    if not number or number >= len(datapath.hops):
        return None
    hop: Any = datapath.hops[number]
    return {
        "neighbour": ways.get(number),
        "link": link_name(int(hop["ifindex"])),
        "ifindex": int(hop["ifindex"]),
        "mac": hop["dmac"].tobytes().hex(":"),
        "link_mac": hop["smac"].tobytes().hex(":"),
        "state": HopState(int(hop["resolved"])).name.lower(),
        "mtu": int(hop["mtu"]),
    }


def link_name(ifindex: int) -> str | None:
    """None: in another network namespace, or gone."""
    import socket

    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return None


def _session(datapath: Datapath, number: int, sessions: SessionTable) -> Row | None:
    positions = np.flatnonzero(sessions.numbers == number)
    return next(sessions.rows(positions, sessions.live_flows(datapath.flows), now()), None)


def _owner(sessions: SessionTable, transceiver: str | None) -> Row | None:
    rows = sessions.transceiver_rows(np.zeros(len(sessions.numbers), np.intp), now())
    found = next((row for row in rows if row["transceiver"] == transceiver), None)
    return found and {key: found[key] for key in ("transceiver", "attached", "since_seconds")}


def _budgets(datapath: Datapath, program: LiveProgram, record: Any, session: Row | None) -> Row:
    """What is left of each, in tokens; null: it is switched off."""
    client = from_bytes(record["client_addr"].tobytes())
    moment = time.monotonic_ns()
    cell = map_keys.source_cell(client, datapath.layout)
    source = datapath.read_number("sources_v2", cell)
    left = []
    for ufrag in session["ufrags"] if session else ():
        raw = datapath.sessions.get(np.array([(ufrag.encode(),)], abi.UFRAG_KEY).tobytes())
        if raw is not None:
            full_at = int(np.frombuffer(raw, abi.SESSION)["full_at"][0])
            left.append(program.budget("session").left(full_at, moment))
    spent = max(datapath.read_numbers_by_cpu("bindings_v1"))
    return {
        "source_requests": program.budget("source").left(source, moment),
        "session_flows": left[0] if left else None,
        "cpu_bindings": program.budget("binding").left(spent, moment),
    }


def _last_drop(datapath: Datapath, row: Row) -> Row | None:
    """Of either of the call's 5-tuples."""
    if row["vip"] is None:
        return None
    client, vip, relay = (parse_endpoint(row[name]) for name in ("client", "vip", "relay"))
    backend = row["backend"] and parse_endpoint(row["backend"])
    found = last_drop.of_flow(datapath, client, vip, backend, relay)
    return None if found is None else found._asdict()


# ---- for people --------------------------------------------------------------------------


def lines_of(datapath: Datapath, pin_path: Path, flow_id: str, sessions: SessionTable) -> list[str]:
    """The screen of a call, for the terminal."""
    row = details(datapath, pin_path, int(flow_id), sessions)
    return [f"flow {flow_id} has ended"] if row is None else lines(row)


def lines(row: Row) -> list[str]:
    """The same row, on less than a screen of 80 columns."""
    session, owner, budgets = row["session"], row["owner"], row["budgets"]
    ends = row["ends_in_seconds"]
    made = [
        _field("flow", f"{row['flow_id']}  {row['state']}  record {row['record']}"),
        _field(
            "age",
            f"{in_time(row['age_seconds'])}, idle {in_milliseconds(row['idle_milliseconds'])}"
            + ("" if ends is None else f", ends in {in_time(ends)} without a packet"),
        ),
        _field("client", row["client"]),
        _field("  VIP", row["vip"]),
        _field("  next hop", _hop_text(row["client_hop"])),
        _field("relay", row["relay"]),
        _field("transceiver", row["backend"]),
        _field("  next hop", _hop_text(row["transceiver_hop"])),
        _field("up", f"{row['to_transceiver_packets']} packets, {in_bytes(row['to_transceiver_bytes'])}"),
        _field("down", f"{row['to_client_packets']} packets, {in_bytes(row['to_client_bytes'])}"),
        _field("session", _session_text(session)),
        _field("owner", _owner_text(owner)),
    ]
    if budgets is not None:
        told = (
            ("requests of its source", budgets["source_requests"]),
            ("new flows of its session", budgets["session_flows"]),
            ("of a CPU", budgets["cpu_bindings"]),
        )
        text = ", ".join(f"{'no limit' if left is None else left} {what}" for what, left in told)
        made.append(_field("budgets left", text))
    made += flow_quality.lines(row["quality"])
    drop = row["last_drop"]
    if drop is not None:
        made.append(
            _field(
                "last drop", f"{drop['reason']}, {in_time(int(drop['age_s']))} ago, {drop['packets']} packets"
            )
        )
    return made


def _field(name: str, text: str | None) -> str:
    return f"{name:{INDENT}}{'-' if text is None else text}"


def _hop_text(hop: Row | None) -> str | None:
    if hop is None:
        return None
    link = hop["link"] or f"ifindex {hop['ifindex']}"
    return f"{hop['neighbour'] or '?'} at {hop['mac']} by {link} ({hop['state']}, MTU {hop['mtu']})"


def _session_text(session: Row | None) -> str:
    if session is None:
        return "gone"
    ttl, flows = session["ttl_seconds"], session["flows"]
    told = (
        f"{session['session_id']}, ufrag {' '.join(session['ufrags'])}",
        f"pwd {'known' if session['has_pwd'] else 'unknown'}",
        "no TTL" if ttl is None else f"TTL {in_time(ttl)}",
        f"{flows} flow{'' if flows == 1 else 's'}",
    )
    return ", ".join(told)


def _owner_text(owner: Row | None) -> str | None:
    if owner is None:
        return None
    state = "attached" if owner["attached"] else "detached"
    return f"{owner['transceiver']}, {state} for {in_time(owner['since_seconds'])}"
