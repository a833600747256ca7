# SPDX-License-Identifier: Apache-2.0
"""What `earshot why` found out, as JSON shows it."""

from __future__ import annotations

import socket
from pathlib import Path

from control import abi, frames, live_program, reasons, why_steps
from control.cli.flow_details import link_name
from control.cli.options import now
from control.cli.output import Row
from control.cli.session_table import SessionTable
from control.datapath import Datapath
from control.errors import DatapathError
from control.flows import flow_id
from control.frames import FrameFault, Packet
from control.live_program import LiveProgram
from control.records import endpoint_of
from control.rehearsal import Rehearsal, Verdict


def report(datapath: Datapath, pin_path: Path, frame: bytes, link: str | None) -> Row:
    """
    Raises:
        FrameFault: there is no such link, or the program is not on it.
        DatapathError: the program does not run, or cannot be copied.
    """
    live = live_program.read(pin_path)
    packet = frames.read(frame)
    ifindex = _arrival(live, packet, link)
    with Rehearsal(datapath, live) as rehearsal:
        verdict = rehearsal.run(frame, ifindex)
        same = rehearsal.is_same
        leaves = _leaves(rehearsal, verdict)
        session = _session(datapath, verdict)
    explained = reasons.EXPLAINED[verdict.reason]
    to_vip = packet.destination in datapath.vips
    request = frames.is_request(packet.payload)
    live_before = verdict.had_flow
    steps = why_steps.taken(
        verdict.reason,
        to_vip=to_vip,
        request=request,
        had_flow=live_before is not None,
        facts=_facts(datapath, packet, verdict, session, leaves),
    )
    return {
        "reason": reasons.label(verdict.reason),
        "action": verdict.action,
        "meaning": reasons.plain(explained.meaning),
        "cure": reasons.plain(explained.cure),
        "same_program": same,
        "class": frames.class_of(packet.payload),
        "arrives": _way(packet, ifindex, len(frame)),
        "leaves": leaves,
        "flow_id": None
        if live_before is None
        else str(flow_id(live_before, int(datapath.flows["state"][live_before]))),
        "makes_flow": verdict.made,
        "session": session,
        "steps": [step._asdict() for step in steps],
    }


def _arrival(live: LiveProgram, packet: Packet, link: str | None) -> int:
    """The link that it comes in by: as told, or by which the host would answer."""
    if link is not None:
        try:
            ifindex = socket.if_nametoindex(link)
        except OSError as error:
            raise FrameFault(f"there is no link {link!r} in this network namespace") from error
        if ifindex not in live.ifindexes:
            raise FrameFault(f"the program is not on link {link!r}")
        return ifindex
    here = [ifindex for ifindex in live.ifindexes if link_name(ifindex) is not None]
    if not here:
        raise DatapathError("the program's links are in another network namespace: run this in the relay's")
    answer = _route(packet)
    return answer if answer in here else here[0]


def _route(packet: Packet) -> int | None:
    """The link of the route to its source; None: there is none."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    if packet.source is None:
        return None
    try:
        with IPRoute() as netlink:
            [route] = netlink.route("get", dst=str(packet.source.address))
    except (NetlinkError, ValueError):
        return None
    return int(route.get_attr("RTA_OIF") or 0) or None


def _way(packet: Packet, ifindex: int, size: int) -> Row:
    return {
        "link": link_name(ifindex),
        "ifindex": ifindex,
        "source": _text(packet.source),
        "destination": _text(packet.destination),
        "source_mac": packet.smac.hex(":"),
        "destination_mac": packet.dmac.hex(":"),
        "bytes": size,
    }


def _text(end: object) -> str | None:
    return None if end is None else str(end)


def _leaves(rehearsal: Rehearsal, verdict: Verdict) -> Row | None:
    if verdict.hop is None:
        return None
    hop = rehearsal.hop(verdict.hop)
    return _way(frames.read(verdict.frame), int(hop["ifindex"]), len(verdict.frame))


def _session(datapath: Datapath, verdict: Verdict) -> Row | None:
    """The session that it names, or that of its flow."""
    sessions = SessionTable(datapath)
    positions = sessions.find(verdict.ufrag) if verdict.ufrag is not None else ()
    live = sessions.live_flows(datapath.flows)
    rows = list(sessions.rows(sessions.all()[positions], live, now())) if len(positions) else []
    return next((row for row in rows if verdict.ufrag in row["ufrags"]), None)


def _facts(
    datapath: Datapath, packet: Packet, verdict: Verdict, session: Row | None, leaves: Row | None
) -> dict[str, str]:
    """What is known beside the answers, by name of the step's fact."""
    facts = {"class": frames.class_of(packet.payload)}
    if packet.source is not None:
        facts["endpoints"] = f"{packet.source} to {packet.destination}"
    if packet.destination in datapath.vips:
        facts["ours"] = "a VIP"
    elif packet.destination is not None and packet.destination.address in datapath.relays:
        facts["ours"] = "a relay port"
    if verdict.ufrag is not None:
        facts["ufrag"] = verdict.ufrag
    if session is not None:
        facts["session"] = f"{session['session_id']} of {session['transceiver'] or 'nobody'}"
        if not session["has_pwd"]:
            facts["integrity"] = "the relay does not know the pwd: its transceiver judges"
    if verdict.had_flow is not None:
        record = datapath.flows[verdict.had_flow]
        state = abi.FlowState(int(record["state"]) & ((1 << abi.FLOW_STATE_BITS) - 1)).name.lower()
        facts["flow"] = f"record {verdict.had_flow}, {state}"
        backend = datapath.backends[int(record["backend"])]
        if backend["port"]:
            facts["backend"] = str(endpoint_of(backend))
    if verdict.made:
        facts["flow"] = f"a new one, at {datapath.relay_endpoint(verdict.record or 0)}"
    if leaves is not None:
        facts["hop"] = f"{leaves['destination_mac']} by {leaves['link'] or leaves['ifindex']}"
    return facts
