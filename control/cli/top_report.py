# SPDX-License-Identifier: Apache-2.0
"""What `earshot top` shows, as JSON shows it: made anew of the maps at each refresh, with bounded work."""

from __future__ import annotations

import time
from ipaddress import ip_network
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from control import live_flows, pinned, program_time, reasons
from control.abi import Reason
from control.addresses import to_bytes
from control.cli import flow_quality, flow_rows
from control.cli.flow_rows import Client
from control.cli.options import now
from control.cli.output import Row
from control.cli.session_table import SessionTable
from control.datapath import Datapath
from control.libbpf import Array
from control.live_flows import Activity, Subject

Numbers = NDArray[np.uint32]

# Sessions are read again only so often that it takes a twentieth of the time, and every 2 s at the most.
_SESSIONS_SHARE, _SESSIONS_SECONDS = 20, 2.0


class Observer:
    """Looks at a datapath again and again; each report is of the time since the one before."""

    def __init__(self, datapath: Datapath, pin_path: Path) -> None:
        self._datapath = datapath
        self._programs = [link.program_id for link in pinned.attached(pin_path)]
        self._sessions_until = 0.0
        self._read_sessions()
        self._look = live_flows.look(datapath.flows, now())
        self._reasons = datapath.reasons()
        self._run_time = program_time.read(self._programs)

    def report(self, order: str, is_reversed: bool, wanted: str, count: int, skip: int = 0) -> Row:
        """Since the last report.

        Args:
            order, is_reversed: of the calls; see live_flows.ORDERS.
            wanted: only calls that it is found in: an address or prefix of clients, a part of a session's id,
                of a ufrag, of a transceiver's name. Empty: all.
            count: of calls to describe, after `skip` of them.
        """
        self._read_sessions()
        datapath = self._datapath
        before, self._look = self._look, live_flows.look(datapath.flows, now())
        current = live_flows.activity(before, self._look)
        subject = self._subject(current, order)
        matching = np.arange(len(current.numbers)) if not wanted else self._matching(wanted, current.numbers)
        subject = _of(subject, matching)
        chosen = live_flows.first(subject, order, is_reversed, skip + count)[skip:]
        return {
            "interval_seconds": round(current.seconds, 6),
            **self._summary(current),
            "order": order,
            "reversed": is_reversed,
            "filter": wanted or None,
            "matching": len(matching),
            "calls": self._calls(subject, chosen),
        }

    @property
    def sessions(self) -> SessionTable:
        """As they were read last."""
        return self._sessions

    # ---- sessions --------------------------------------------------------------------------

    def _read_sessions(self) -> None:
        started = time.monotonic()
        if started >= self._sessions_until:
            self._sessions = SessionTable(self._datapath)
            ended = time.monotonic()
            self._sessions_until = ended + max(_SESSIONS_SECONDS, _SESSIONS_SHARE * (ended - started))

    def _matching(self, wanted: str, numbers: Numbers) -> NDArray[np.intp]:
        """Positions of the flows that a filter lets through."""
        flows = self._datapath.flows
        hits = np.isin(flows["session"][numbers], self._sessions.numbers[self._sessions.like(wanted)])
        try:
            hits |= np.isin(numbers, flow_rows.of_client(flows, numbers, Client.parse(wanted)))
        except ValueError:
            hits |= _in_prefix(flows, numbers, wanted)
        return np.flatnonzero(hits)

    # ---- the parts of a report -------------------------------------------------------------

    def _subject(self, current: Activity, order: str) -> Subject:
        numbers = current.numbers
        owners = np.zeros(len(numbers), np.int64)
        if order == "transceiver":
            owners = self._sessions.owner_places(self._datapath.flows["session"][numbers])
        # Of a million flows only where they are to be ordered by it.
        measured = {}
        if order in ("loss", "jitter", "trip"):
            measured = flow_quality.columns(self._datapath, numbers, self._look.now)
        return Subject(self._datapath.flows, numbers, current.rates, measured, owners, self._look.now)

    def _summary(self, current: Activity) -> Row:
        datapath, look = self._datapath, self._look
        counted, self._reasons = self._reasons, datapath.reasons()
        ran, self._run_time = self._run_time, program_time.read(self._programs)
        attached = [bool(record["attached"]) for record in datapath.read_owners() if record["name"]]
        capacity = datapath.capacity()
        used = len(look.numbers) + look.superseded + look.dead + look.provisional
        per_packet = self._run_time.per_packet(ran) if ran and self._run_time else None
        return {
            "flows": {
                "live": len(look.numbers),
                "superseded": look.superseded,
                "dead": look.dead,
                "provisional": look.provisional,
                "capacity": capacity,
            },
            "occupancy_ratio": round(used / capacity, 6) if capacity else 0.0,
            "sessions": len(self._sessions.numbers),
            "ufrags": {"used": self._sessions.ufrags, "capacity": datapath.sessions.capacity},
            "transceivers": {"attached": sum(attached), "detached": len(attached) - sum(attached)},
            "to_transceiver_packets_per_second": round(current.total("up_packets"), 1),
            "to_client_packets_per_second": round(current.total("down_packets"), 1),
            "to_transceiver_bytes_per_second": round(current.total("up_bytes"), 1),
            "to_client_bytes_per_second": round(current.total("down_bytes"), 1),
            "drops_per_second": _drops(counted, self._reasons, current.seconds),
            "nanoseconds_per_packet": None if per_packet is None else round(per_packet, 1),
        }

    def _calls(self, subject: Subject, chosen: NDArray[np.intp]) -> list[Row]:
        """Described one by one: as many as a screen has lines."""
        calls = []
        for position in chosen.tolist():
            number = subject.numbers[position : position + 1]
            for row in flow_rows.rows(self._datapath, number, self._sessions, subject.now):
                rates = {name: round(float(rate[position]), 1) for name, rate in subject.rates.items()}
                calls.append(
                    {
                        **row,
                        "to_transceiver_packets_per_second": rates["up_packets"],
                        "to_client_packets_per_second": rates["down_packets"],
                        "to_transceiver_bytes_per_second": rates["up_bytes"],
                        "to_client_bytes_per_second": rates["down_bytes"],
                        **flow_quality.summary(self._datapath, int(number[0]), subject.now),
                    }
                )
        return calls


def _of(subject: Subject, positions: NDArray[np.intp]) -> Subject:
    """Some of its flows."""
    if len(positions) == len(subject.numbers):
        return subject
    return subject._replace(
        numbers=subject.numbers[positions],
        rates={name: column[positions] for name, column in subject.rates.items()},
        measured={name: column[positions] for name, column in subject.measured.items()},
        owners=subject.owners[positions],
    )


def _in_prefix(flows: Array, numbers: Numbers, text: str) -> NDArray[np.bool_]:
    """Whether flows' clients are in a prefix; of a text that is none, none is."""
    try:
        prefix = ip_network(text)
    except ValueError:
        return np.zeros(len(numbers), np.bool_)
    bits = prefix.prefixlen + (96 if prefix.version == 4 else 0)
    mask = np.frombuffer(((1 << 128) - (1 << 128 - bits)).to_bytes(16, "big"), np.uint8)
    network = np.frombuffer(to_bytes(prefix.network_address), np.uint8)
    clients = np.ascontiguousarray(flows["client_addr"][numbers]).view(np.uint8).reshape(-1, 16)
    return np.asarray(((clients & mask) == network).all(axis=1))


def _drops(before: Array, after: Array, seconds: float) -> dict[str, float]:
    """By reason, what drops most now first; those alone that do."""
    rates = {
        reasons.label(reason): round(int(after["packets"][reason] - before["packets"][reason]) / seconds, 1)
        for reason in Reason
        if reasons.is_loss(reason)
    }
    return dict(sorted(((name, rate) for name, rate in rates.items() if rate > 0), key=lambda one: -one[1]))
