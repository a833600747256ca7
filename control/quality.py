# SPDX-License-Identifier: Apache-2.0
"""How flows fare, as XDP has measured it (bpf/quality.h): loss, jitter and round trips, by flow.

Pure functions over three arrays, the flow table, quality_v2 and quality_more_v1, which the datapath has as
the kernel's own memory. docs/quality.md says what each figure means. `of_flow` is for one, `of_flows` for
half a million.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from control import abi

Records = NDArray[np.void]
Numbers = NDArray[np.uint32]
Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

WAYS = ("up", "down")  # client to transceiver, and back
CHUNK = 1 << 14  # flows at a time: 5 MiB of records

_BINDING = np.uint32(0xFFFFFFFF << abi.FLOW_STATE_BITS & 0xFFFFFFFF)
_CLOCK = (1 << abi.CLOCK_BITS) - 1
_TICK_SECONDS = (1 << abi.FLOW_TICK_SHIFT) / 1e9
_JITTER_SCALE = 256  # parts of a timestamp unit


@dataclass(frozen=True)
class StreamQuality:
    """What one SSRC has sent one way since its first packet.

    Attributes:
        direction: "up" is from the client to the transceiver.
        clock_rate: Hz, of its timestamps, as its session was registered.
        packets: each once; those that came twice are `duplicates`.
        expected: how many there should have been, by their sequence numbers.
        lost: expected less packets.
        reordered: packets that came after one that was sent later.
        restarts: how often its sequence numbers began anew, up to 15.
        jitter_ms, peak_jitter_ms: interarrival jitter (RFC 3550, 6.4.1) as of the last packet, and at most.
        gaps: times of more than 200 ms without a packet, up to 65,535; the longest took `longest_gap_ms`.
        packets_per_second: over all its time; None for the first millisecond.
        last_seen_s: seconds since its last packet.
    """

    ssrc: int
    direction: str
    clock_rate: int
    packets: int
    expected: int
    lost: int
    duplicates: int
    reordered: int
    restarts: int
    jitter_ms: float
    peak_jitter_ms: float
    gaps: int
    longest_gap_ms: int
    packets_per_second: float | None
    last_seen_s: float

    @property
    def loss(self) -> float:
        """Of all that was expected, the share that is lost."""
        return self.lost / self.expected if self.expected else 0.0


@dataclass(frozen=True)
class FlowQuality:
    """All that was measured of a flow.

    Attributes:
        streams: up to four, by direction ("up" first), then by SSRC.
        client_rtt_ms: from the relay to the client and back; None: no request of the transceiver was
            answered.
        client_rtt_age_s: seconds since.
        transceiver_rtt_ms, transceiver_rtt_age_s: the same of the transceiver, by the client's requests.
        unmeasured_packets: RTP of further SSRCs.
    """

    streams: tuple[StreamQuality, ...]
    client_rtt_ms: float | None
    client_rtt_age_s: float | None
    transceiver_rtt_ms: float | None
    transceiver_rtt_age_s: float | None
    unmeasured_packets: int

    def as_json(self) -> dict[str, Any]:
        """As the command line shows it."""
        return asdict(self)


@dataclass(frozen=True)
class Streams:
    """Columns: of each stream, what `StreamQuality` has of it. `flow` is the number of its record."""

    flow: Numbers
    ssrc: Numbers
    is_down: NDArray[np.bool_]
    clock_rate: Counts
    packets: Counts
    expected: Counts
    lost: Counts
    duplicates: Counts
    reordered: Counts
    restarts: Counts
    jitter_ms: Floats
    peak_jitter_ms: Floats
    gaps: Counts
    longest_gap_ms: Counts
    packets_per_second: Floats  # NaN: not known yet
    last_seen_s: Floats

    def __len__(self) -> int:
        return len(self.flow)


@dataclass(frozen=True)
class Trips:
    """Columns: of each flow, what `FlowQuality` has of it. NaN: never measured."""

    flow: Numbers
    client_rtt_ms: Floats
    client_rtt_age_s: Floats
    transceiver_rtt_ms: Floats
    transceiver_rtt_age_s: Floats
    unmeasured_packets: Counts


class Measured(Protocol):
    """What of the datapath it takes."""

    @property
    def flows(self) -> Records: ...
    @property
    def quality(self) -> Records: ...
    @property
    def quality_more(self) -> Records: ...


def is_on(datapath: Measured) -> bool:
    """Whether there is a record for each flow: else it has been switched off."""
    return len(datapath.quality) >= len(datapath.flows)


def of_flows(datapath: Measured, numbers: Numbers, now_ns: int) -> Iterator[tuple[Streams, Trips]]:
    """What was measured of these records, some thousands at a time; of each, the streams are in no order.

    now_ns: CLOCK_MONOTONIC, by which ages are counted.
    """
    if not is_on(datapath):
        return
    for start in range(0, len(numbers), CHUNK):
        yield _chunk(datapath, numbers[start : start + CHUNK], now_ns)


def of_flow(datapath: Measured, number: int, now_ns: int) -> FlowQuality | None:
    """What was measured of a flow, by its record's number; None: it has been switched off."""
    if not is_on(datapath):
        return None
    streams, trips = _chunk(datapath, np.array([number], np.uint32), now_ns)
    made = [_stream(row) for row in _rows(streams)]
    made.sort(key=lambda stream: (WAYS.index(stream.direction), stream.ssrc))
    (row,) = _rows(trips)
    del row["flow"]
    return FlowQuality(streams=tuple(made), **row)


def _stream(row: dict[str, Any]) -> StreamQuality:
    """Of a row of `Streams`."""
    del row["flow"]
    return StreamQuality(direction=WAYS[row.pop("is_down")], **row)


def _rows(columns: Streams | Trips) -> Iterator[dict[str, Any]]:
    """Row by row, None where a column has NaN."""
    names = list(vars(columns))
    for row in zip(*(column.tolist() for column in vars(columns).values()), strict=True):
        known = (None if isinstance(value, float) and math.isnan(value) else value for value in row)
        yield dict(zip(names, known, strict=True))


def _chunk(datapath: Measured, numbers: Numbers, now_ns: int) -> tuple[Streams, Trips]:
    # The state after the figures: of a record that is bound anew in between, nothing fits.
    more = datapath.quality_more[numbers]
    streams = np.concatenate((datapath.quality["streams"][numbers], more["streams"]), axis=1)
    binding = datapath.flows["state"][numbers] & _BINDING
    theirs = streams["identity"].astype(np.uint32) & _BINDING
    holds = (theirs == binding[:, None]) & (binding > 0)[:, None]
    at, place = np.nonzero(holds)
    return _streams(streams[at, place], numbers[at], now_ns), _trips(
        more, numbers, more["binding"] == binding, now_ns
    )


def _streams(streams: Records, flow: Numbers, now_ns: int) -> Streams:
    clock = (streams["clock"] & _CLOCK).astype(np.int64) * abi.CLOCK_UNIT
    received, lost = _counts(streams["received"]), _counts(streams["lost"])
    last_tick = (streams["arrival"] >> np.uint64(abi.FLOW_TICK_SHIFT)).astype(np.uint32)
    seconds = (last_tick - streams["began"]) * _TICK_SECONDS
    sent = received + streams["duplicates"] - 1
    rate = np.divide(sent, seconds, out=np.full(len(flow), np.nan), where=seconds > 0)
    units_ms = 1e3 / np.maximum(clock, 1)
    return Streams(
        flow=flow,
        ssrc=(streams["identity"] >> np.uint64(32)).astype(np.uint32),
        is_down=streams["identity"] & np.uint64(1) == abi.Way.DOWN,
        clock_rate=clock,
        packets=received,
        expected=received + lost,
        lost=lost,
        duplicates=_counts(streams["duplicates"]),
        reordered=_counts(streams["reordered"]),
        restarts=_counts(streams["clock"] >> np.uint16(abi.CLOCK_BITS)),
        jitter_ms=streams["jitter"] / _JITTER_SCALE * units_ms,
        peak_jitter_ms=streams["peak_jitter"] * units_ms,
        gaps=_counts(streams["gaps"]),
        longest_gap_ms=_counts(streams["longest_gap"]),
        packets_per_second=rate,
        last_seen_s=_since(streams["arrival"], now_ns),
    )


def _trips(records: Records, numbers: Numbers, holds: NDArray[np.bool_], now_ns: int) -> Trips:
    def column(way: abi.Way) -> tuple[Floats, Floats]:
        trips = records["trips"][:, way]
        known = holds & (trips["microseconds"] > 0)
        ticks = np.uint32(now_ns >> abi.FLOW_TICK_SHIFT & 0xFFFFFFFF) - trips["answered_at"]
        ticks[ticks > np.uint32(1 << 31)] = 0  # answered after the clock was read
        return np.where(known, trips["microseconds"] / 1e3, np.nan), np.where(
            known, ticks * _TICK_SECONDS, np.nan
        )

    # What went up was answered by the transceiver.
    return Trips(
        numbers,
        *column(abi.Way.DOWN),
        *column(abi.Way.UP),
        np.where(holds, _counts(records["unmeasured"]), 0),
    )


def _counts(values: NDArray[np.generic]) -> Counts:
    return values.astype(np.int64)


def _since(nanoseconds: NDArray[np.uint64], now_ns: int) -> Floats:
    seconds: Floats = np.maximum(now_ns - nanoseconds.astype(np.int64), 0) / 1e9
    return seconds
