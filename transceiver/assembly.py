# SPDX-License-Identifier: Apache-2.0
"""Messages of a data channel put together again (SCTP, RFC 9260, 6.9), in bounded time and memory.

aiortc's own looks through all that it holds for every chunk that comes, and holds whatever is sent: a message
of 10 MB takes it five seconds and 10 MB, while no other call gets its turn. Here fragments that belong
together are one `Run`, of which no more than `MOST` bytes are kept. The rest of a longer message is thrown
away; what is left is still too long for anybody to take it for a message (`speech.messages`).

How many runs there may be is bounded by `refuses`. Whoever keeps to SCTP is never refused, unless much comes
out of order; then it is as if the network had lost a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

MOST = 65536  # bytes kept of one message
MISORDERED = 256  # chunks taken after one that is missing
RUNS = 2 * MISORDERED  # in one stream; only who never finishes what it begins has as many
STREAMS = 64  # that a client may have in use at a time
LAST, FIRST, UNORDERED = 1, 2, 4  # flags of a DATA chunk (RFC 9260, 3.3.1)
_TSN, _SSN = 1 << 32, 1 << 16  # where transmission and stream sequence numbers begin again


@dataclass
class Run:
    """Fragments of one message that follow each other; `end` is the TSN after the last.

    Of its `flags`, FIRST says that the message begins here, and LAST that it ends here.
    """

    start: int
    end: int
    flags: int
    stream_id: int
    stream_seq: int
    protocol: int
    data: bytearray = field(default_factory=bytearray)

    @property
    def whole(self) -> bool:
        """Whether it is the whole message."""
        return self.flags & (FIRST | LAST) == FIRST | LAST

    def goes_on_with(self, start: int, flags: int) -> bool:
        """Whether a fragment, or run, that begins with that TSN is of the same message."""
        return self.end == start and not self.flags & LAST and not flags & FIRST


class Assembly:
    """One stream. Has of aiortc's `InboundStream` what its association uses, and stands in for it."""

    def __init__(self) -> None:
        self.sequence_number = 0  # of the ordered message that is due; the association moves it too
        self.runs: list[Run] = []  # by TSN

    def add_chunk(self, chunk: Any) -> None:
        """Takes a chunk that has not come before; empties its `user_data` if that is too much to keep."""
        at = len(self.runs)
        while at and _before(chunk.tsn, self.runs[at - 1].start, _TSN):
            at -= 1
        end = (chunk.tsn + 1) % _TSN
        if at and self.runs[at - 1].goes_on_with(chunk.tsn, chunk.flags):
            run = self.runs[at - 1]
            run.flags |= chunk.flags & LAST
            run.end = end
        else:
            run = Run(chunk.tsn, end, chunk.flags, chunk.stream_id, chunk.stream_seq, chunk.protocol)
            self.runs.insert(at, run)
            at += 1
        if len(run.data) + len(chunk.user_data) > MOST:
            chunk.user_data = b""  # the association takes its length off the window
        run.data += chunk.user_data
        if at < len(self.runs) and run.goes_on_with(self.runs[at].start, self.runs[at].flags):
            following = self.runs.pop(at)
            run.flags |= following.flags & LAST
            run.end = following.end
            run.data += following.data

    def pop_messages(self) -> Iterator[tuple[int, int, bytes]]:
        """Stream, protocol and data of each message that is whole and due."""
        at = 0
        while at < len(self.runs):
            run = self.runs[at]
            ordered = not run.flags & UNORDERED
            if not run.whole or (ordered and _before(self.sequence_number, run.stream_seq, _SSN)):
                at += 1
                continue
            del self.runs[at]
            if ordered and run.stream_seq == self.sequence_number:
                self.sequence_number = (self.sequence_number + 1) % _SSN
                at = 0  # what waited for it is due now, wherever it stands
            yield run.stream_id, run.protocol, bytes(run.data)

    def prune_chunks(self, tsn: int) -> int:
        """Drops what the sender has given up, all up to this TSN; returns how many bytes that were.

        What has come up to there from a message's beginning, and goes on after it, is kept (RFC 3758, 3.6).
        """
        kept: list[Run] = []
        size = 0
        for run in self.runs:
            begun = run.flags & FIRST and _before(tsn, run.end - bool(run.flags & LAST), _TSN)
            if begun or _before(tsn, run.start, _TSN):
                kept.append(run)
            else:
                size += len(run.data)
        self.runs = kept
        return size


def refuses(association: Any, chunk: Any) -> bool:
    """Whether an association (aiortc's `RTCSctpTransport`) has no room for a chunk, as if it had not come."""
    streams = association._inbound_streams
    stream = streams.get(chunk.stream_id)
    if len(streams) >= STREAMS if stream is None else len(stream.runs) >= RUNS:
        return True
    due = (association._last_received_tsn + 1) % _TSN
    return chunk.tsn != due and len(association._sack_misordered) >= MISORDERED


def _before(one: int, other: int, modulus: int) -> bool:
    """Whether a serial number is before another one (RFC 1982)."""
    return 0 < (other - one) % modulus < modulus // 2
