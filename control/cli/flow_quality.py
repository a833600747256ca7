# SPDX-License-Identifier: Apache-2.0
"""The quality of flows as the command line shows it; NaN and null where nothing is measured."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from control import quality
from control.cli.output import Row
from control.datapath import Datapath
from control.flows import Clock
from control.quality import Streams
from control.units import in_time

COLUMNS = ("up_loss", "down_loss", "up_jitter", "down_jitter", "client_trip", "transceiver_trip")
_INDENT = 14


def columns(datapath: Datapath, numbers: NDArray[np.uint32], now: Clock) -> dict[str, NDArray[np.float64]]:
    """What flows are ordered by: of a flow's streams one way, loss of all together and the largest jitter."""
    made = {name: np.full(len(numbers), np.nan) for name in COLUMNS}
    start = 0
    for streams, trips in quality.of_flows(datapath, numbers, _nanoseconds(now)):
        part = slice(start, start + len(trips.flow))
        start = part.stop
        made["client_trip"][part] = trips.client_rtt_ms
        made["transceiver_trip"][part] = trips.transceiver_rtt_ms
        for way, ours in (("up", ~streams.is_down), ("down", streams.is_down)):
            made[f"{way}_loss"][part], made[f"{way}_jitter"][part] = _of_way(streams, ours, trips.flow)
    return made


def _of_way(
    streams: Streams, ours: NDArray[np.bool_], flows: NDArray[np.uint32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Loss and jitter of each of the flows, whose numbers rise."""
    places = np.searchsorted(flows, streams.flow[ours])
    expected = np.bincount(places, streams.expected[ours], len(flows))
    lost = np.bincount(places, streams.lost[ours], len(flows))
    loss = np.divide(lost, expected, out=np.full(len(flows), np.nan), where=expected > 0)
    jitter = np.full(len(flows), np.nan)
    np.fmax.at(jitter, places, streams.jitter_ms[ours])
    return loss, jitter


def summary(datapath: Datapath, number: int, now: Clock) -> Row:
    """Of one flow, in a line."""
    found = columns(datapath, np.array([number], np.uint32), now)
    values = {name: float(column[0]) for name, column in found.items()}

    def shown(name: str, digits: int) -> float | None:
        return None if np.isnan(values[name]) else round(max(0.0, values[name]), digits)

    return {
        "to_transceiver_loss_ratio": shown("up_loss", 6),
        "to_client_loss_ratio": shown("down_loss", 6),
        "to_transceiver_jitter_milliseconds": shown("up_jitter", 2),
        "to_client_jitter_milliseconds": shown("down_jitter", 2),
        "client_trip_milliseconds": shown("client_trip", 2),
        "transceiver_trip_milliseconds": shown("transceiver_trip", 2),
    }


def details(datapath: Datapath, number: int, now: Clock) -> Row | None:
    """Of one flow, all of it; None: it is switched off."""
    measured = quality.of_flow(datapath, number, _nanoseconds(now))
    if measured is None:
        return None
    row = measured.as_json()
    row["streams"] = [
        {**one, "loss": round(stream.loss, 6)}
        for one, stream in zip(row["streams"], measured.streams, strict=True)
    ]
    return row


def lines(row: Row | None) -> list[str]:
    """The same for people."""
    if row is None:
        return [f"{'quality':{_INDENT}}not measured: it is switched off"]
    made = [f"{'quality':{_INDENT}}{_trip('client', row)}, {_trip('transceiver', row)}"]
    for stream in row["streams"]:
        made.append(
            f"{'  ' + stream['direction']:{_INDENT}}SSRC {stream['ssrc']:08x}: {stream['packets']} packets, "
            f"lost {stream['lost']} ({100 * stream['loss']:.1f}%), jitter {stream['jitter_ms']:.1f} ms, "
            f"gaps {stream['gaps']}, late {stream['reordered']}, twice {stream['duplicates']}"
        )
    if row["unmeasured_packets"]:
        made.append(f"{'':{_INDENT}}{row['unmeasured_packets']} packets of further SSRCs")
    return made


def _trip(end: str, row: Row) -> str:
    milliseconds, age = row[f"{end}_rtt_ms"], row[f"{end}_rtt_age_s"]
    if milliseconds is None:
        return f"round trip to the {end} unknown"
    return f"{milliseconds:.1f} ms to the {end} and back ({in_time(round(age or 0))} ago)"


def _nanoseconds(now: Clock) -> int:
    return int(now.seconds * 1e9)
