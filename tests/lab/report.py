# SPDX-License-Identifier: Apache-2.0
"""What the demo shows and what it proves, as text and as JSON. Pure: no I/O here."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from earshot.relay.v1 import relay_pb2 as pb

MOST_ROWS = 24
SESSION_WIDTH = 8  # of its id: enough to tell calls apart
HEADINGS = ("SESSION", "CLIENT", "TRANSCEIVER", "PACKETS UP", "KB UP", "PACKETS DOWN", "KB DOWN", "AGE")
FIRST_NUMBER = HEADINGS.index("PACKETS UP")  # numbers stand to the right
TO_TRANSCEIVER = ("forward_to_transceiver", "forward_bound", "forward_rebound")
TO_CLIENT = ("forward_to_client",)
# A removed session stops at once, and its client goes on sending for a moment.
EXPECTED_DROPS = {
    "drop_no_flow": " (sent after hanging up)",
    "drop_stale_flow": " (sent while hanging up)",
    "drop_no_relay_flow": " (answered after hanging up)",
}


@dataclass(frozen=True)
class RelayReport:
    to_transceiver_packets: int
    to_client_packets: int
    dropped: dict[str, int]  # packets by reason
    stack_packets: int  # to a VIP, by UDP, seen by the relay host's own stack

    @classmethod
    def of(cls, counters: Mapping[str, int], stack_packets: int) -> RelayReport:
        return cls(
            to_transceiver_packets=sum(counters.get(reason, 0) for reason in TO_TRANSCEIVER),
            to_client_packets=sum(counters.get(reason, 0) for reason in TO_CLIENT),
            dropped={
                reason: count
                for reason, count in counters.items()
                if count and reason.startswith(("drop_", "aborted_"))
            },
            stack_packets=stack_packets,
        )


@dataclass(frozen=True)
class Report:
    """The outcome of a demo; its fields are the keys of the JSON file."""

    calls: int
    seconds: float
    ip_version: int
    connected: int
    audio_verified: int
    data_channel_verified: int
    setup_ms: list[float]  # of each connected call: from the offer to the first media back
    correlation: list[float]  # of each call: of the echo with what was sent, at most 1
    errors: list[str]  # of calls that failed
    relay: RelayReport
    xdp_mode: str
    signalling_udp_packets: int  # that tried to pass the relay by

    @classmethod
    def of(
        cls,
        results: Sequence[Mapping[str, Any]],
        *,
        seconds: float,
        ip_version: int,
        relay: RelayReport,
        xdp_mode: str,
        signalling_udp_packets: int,
    ) -> Report:
        """`results` as the caller's JSON file has them, one for each call."""
        return cls(
            calls=len(results),
            seconds=seconds,
            ip_version=ip_version,
            connected=sum(result["connected"] for result in results),
            audio_verified=sum(result["audio_verified"] for result in results),
            data_channel_verified=sum(result["data_channel_verified"] for result in results),
            setup_ms=[result["setup_ms"] for result in results if result["connected"]],
            correlation=[result["correlation"] for result in results],
            errors=[result["error"] for result in results if result["error"]],
            relay=relay,
            xdp_mode=xdp_mode,
            signalling_udp_packets=signalling_udp_packets,
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def failures(self) -> list[str]:
        """What was not as it has to be; empty: all is proved."""
        shortfalls = (
            (self.connected, "calls connected"),
            (self.audio_verified, "heard their own audio come back"),
            (self.data_channel_verified, "had their data channel answered"),
        )
        failures = [f"{count} of {self.calls} {what}" for count, what in shortfalls if count != self.calls]
        failures += [f"a call failed: {error}" for error in self.errors]
        if self.relay.stack_packets:
            failures.append(f"{self.relay.stack_packets} UDP packets to the VIP reached the relay's stack")
        if self.signalling_udp_packets:
            failures.append(f"{self.signalling_udp_packets} UDP packets tried to pass the relay by")
        if self.xdp_mode != "native":
            failures.append(f"XDP is attached as {self.xdp_mode}, not native")
        return failures

    def proof(self) -> list[str]:
        """What was proved, a line each; for a report without failures."""
        relay = self.relay
        worst, middle = max(self.setup_ms), statistics.median(self.setup_ms)
        dropped = "; ".join(
            f"{count} {reason}{EXPECTED_DROPS.get(reason, '')}"
            for reason, count in sorted(relay.dropped.items())
        )
        return [
            f"{self.connected} of {self.calls} calls connected; offer to media: "
            f"median {middle:.0f} ms, slowest {worst:.0f} ms",
            f"{self.audio_verified} of {self.calls} got their own audio back: echo and sent sound "
            f"correlate, {min(self.correlation):.2f} at the least",
            f"{self.data_channel_verified} of {self.calls} got their data channel's answer",
            f"{relay.to_transceiver_packets:,} packets to the transceiver, {relay.to_client_packets:,} "
            f"to the clients, all by XDP ({self.xdp_mode})",
            "0 of them were seen by the relay host's own network stack, and 0 went another way",
            f"dropped: {dropped or 'nothing'}",
        ]


def flow_table(flows: Sequence[pb.Flow]) -> list[str]:
    """Live flows as an operator wants to see them: one line each, oldest first.

    Up is from the client to the transceiver.
    """
    ordered = sorted(flows, key=lambda flow: (flow.flow_id >> 32, flow.session_id))
    rows = [HEADINGS, *map(_row, ordered[:MOST_ROWS])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = ["  ".join(_cells(row, widths)) for row in rows]
    if len(ordered) > MOST_ROWS:
        lines.append(f"and {len(ordered) - MOST_ROWS} more")
    return lines


def _cells(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [
        cell.ljust(width) if column < FIRST_NUMBER else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]


def _row(flow: pb.Flow) -> tuple[str, ...]:
    return (
        flow.session_id[:SESSION_WIDTH],
        _endpoint(flow.client),
        f"{flow.transceiver} {_endpoint(flow.backend)}",
        f"{flow.to_transceiver_packets:,}",
        f"{flow.to_transceiver_bytes / 1000:,.1f}",
        f"{flow.to_client_packets:,}",
        f"{flow.to_client_bytes / 1000:,.1f}",
        f"{flow.age_seconds} s",
    )


def _endpoint(endpoint: pb.Endpoint) -> str:
    address = f"[{endpoint.address}]" if ":" in endpoint.address else endpoint.address
    return f"{address}:{endpoint.port}"
