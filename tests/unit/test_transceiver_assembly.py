# SPDX-License-Identifier: Apache-2.0
"""Messages put together from SCTP's chunks: all that a sender may do, and no more memory than is due."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace

from aiortc.rtcsctptransport import DataChunk
from hypothesis import given
from hypothesis import strategies as st

from transceiver.assembly import FIRST, LAST, MISORDERED, MOST, RUNS, STREAMS, UNORDERED, Assembly, refuses

WRAP = (1 << 32) - 20  # first TSN: numbers begin again soon after
PAYLOAD = 1160


def chunk(tsn: int, flags: int, data: bytes, sequence: int = 0) -> DataChunk:
    made = DataChunk()
    made.tsn, made.flags, made.user_data = tsn % (1 << 32), flags, data
    made.stream_id, made.stream_seq, made.protocol = 3, sequence, 51
    return made


def fragments(messages: list[tuple[bytes, bool]], size: int) -> list[DataChunk]:
    """The chunks of messages, each ordered or not."""
    chunks: list[DataChunk] = []
    sequence = (1 << 16) - 2
    for data, ordered in messages:
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        for number, piece in enumerate(pieces):
            flags = (FIRST if number == 0 else 0) | (LAST if number == len(pieces) - 1 else 0)
            flags |= 0 if ordered else UNORDERED
            chunks.append(chunk(WRAP + len(chunks), flags, piece, sequence % (1 << 16)))
        sequence += ordered
    return chunks


@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=30), st.booleans()), max_size=12),
    st.integers(1, 10),
    st.randoms(use_true_random=False),
)
def test_messages_are_whole_and_in_order_however_their_chunks_come(
    messages: list[tuple[bytes, bool]], size: int, random: Random
) -> None:
    stream = Assembly()
    stream.sequence_number = (1 << 16) - 2
    chunks = fragments(messages, size)
    random.shuffle(chunks)
    came: list[bytes] = []
    for one in chunks:
        stream.add_chunk(one)
        for stream_id, protocol, data in stream.pop_messages():
            assert (stream_id, protocol) == (3, 51)
            came.append(data)
    assert sorted(came) == sorted(data for data, _ in messages)
    assert not stream.runs
    ordered = [data for data, in_order in messages if in_order]
    waiting = iter(came)
    assert all(data in waiting for data in ordered)  # a subsequence of what came


def test_of_a_message_of_10_mb_little_is_held_and_the_next_one_is_whole() -> None:
    stream = Assembly()
    chunks = fragments([(bytes(10_000_000), True), (b"next", True)], PAYLOAD)
    came: list[bytes] = []
    stream.sequence_number = chunks[0].stream_seq
    kept = 0
    for one in chunks:
        stream.add_chunk(one)
        kept += len(one.user_data)  # what the association takes off its window
        assert len(stream.runs) <= 1
        for message in stream.pop_messages():
            kept -= len(message[2])  # and gives back
            came.append(message[2])
        assert kept <= MOST
    assert [len(data) for data in came] == [MOST // PAYLOAD * PAYLOAD, 4]
    assert kept == 0


def test_what_a_sender_gives_up_is_dropped_and_what_goes_on_is_kept() -> None:
    stream = Assembly()
    stream.add_chunk(chunk(1, FIRST, b"ab"))
    stream.add_chunk(chunk(3, LAST, b"c"))  # 2 was lost
    stream.add_chunk(chunk(4, FIRST, b"de", 1))
    assert stream.prune_chunks(4) == 3
    stream.add_chunk(chunk(5, LAST, b"f", 1))
    stream.sequence_number = 1
    assert [data for _, _, data in stream.pop_messages()] == [b"def"]
    stream.add_chunk(chunk(6, FIRST | LAST, b"g", 9))
    assert stream.prune_chunks(6) == 1
    assert not stream.runs


def test_whoever_never_finishes_what_it_begins_is_refused() -> None:
    association = SimpleNamespace(_inbound_streams={}, _last_received_tsn=0, _sack_misordered=set())
    for tsn in range(1, 2 * RUNS):
        one = chunk(tsn, FIRST, b"x")
        if not refuses(association, one):
            association._inbound_streams.setdefault(one.stream_id, Assembly()).add_chunk(one)
            association._last_received_tsn = tsn
    assert association._last_received_tsn == RUNS
    for number in range(2 * STREAMS):
        one = chunk(RUNS + 1, FIRST | LAST, b"x")
        one.stream_id = number
        if not refuses(association, one):
            association._inbound_streams[number] = Assembly()
    assert len(association._inbound_streams) == STREAMS


def test_too_much_out_of_order_is_refused_and_what_is_missing_is_not() -> None:
    association = SimpleNamespace(
        _inbound_streams={3: Assembly()}, _last_received_tsn=7, _sack_misordered=set(range(9, 9 + MISORDERED))
    )
    assert refuses(association, chunk(9 + MISORDERED, FIRST | LAST, b"x"))
    assert not refuses(association, chunk(8, FIRST | LAST, b"x"))
