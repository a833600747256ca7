# SPDX-License-Identifier: Apache-2.0
"""Speech and sound between calls and backends, without either: buffers, windows, codecs, turns."""

from __future__ import annotations

import asyncio
import json
from random import Random

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.lab.signals import chirps, correlation, encode
from transceiver.backends.turns import Began, Ended, Patience, Turns
from transceiver.speech.buffer import Ended as SpeechEnded
from transceiver.speech.buffer import SpeechBuffer, SpeechFault
from transceiver.speech.codec import BIT_RATE, COMPLEXITY, FRAME_US, decoder, encoder, frame_bytes, opus_us
from transceiver.speech.ledger import Ledger
from transceiver.speech.messages import BURST, MESSAGE_LIMIT, MessageError, Throttle, to_backend
from transceiver.speech.playout import FRAME, Playout

FRAME_16K = frame_bytes(16000)
OPUS_20MS = encode(np.zeros(960, np.float32))[0]


def test_speech_is_cut_into_frames_and_its_end_is_filled_up() -> None:
    buffer = SpeechBuffer(16000, 1_000_000)
    buffer.push(1, b"\1" * (FRAME_16K + 100), last=False)
    assert [buffer.pop() is not None, buffer.pop()] == [True, None]  # what is left may be continued
    buffer.push(1, b"\1" * 20, last=True)
    frame = buffer.pop()
    assert frame is not None
    assert (frame.data, frame.used) == (b"\1" * 120 + bytes(FRAME_16K - 120), 60)
    assert buffer.take_ended() == [SpeechEnded(1, 23_750, False)]
    assert buffer.used_us == 23_750


def test_utterances_end_in_order() -> None:
    buffer = SpeechBuffer(None, 1_000_000)
    buffer.push(1, OPUS_20MS, last=True)
    buffer.push(2, OPUS_20MS, last=False)
    buffer.push(3, b"", last=True)  # ends the second, and has nothing to say itself
    assert [ended.utterance for ended in buffer.take_ended()] == [3]
    buffer.pop()
    assert buffer.take_ended() == [SpeechEnded(1, FRAME_US, False)]
    buffer.pop()
    assert buffer.take_ended() == [SpeechEnded(2, FRAME_US, False)]


def test_what_is_cleared_is_over_and_used() -> None:
    buffer = SpeechBuffer(16000, 10_000_000)
    buffer.push(1, bytes(10 * FRAME_16K), last=False)
    buffer.push(2, bytes(10 * FRAME_16K), last=True)
    buffer.pop()
    buffer.clear()
    assert not buffer
    assert buffer.take_ended() == [SpeechEnded(1, FRAME_US, True), SpeechEnded(2, 0, True)]
    assert buffer.used_us == 20 * FRAME_US
    buffer.push(2, bytes(FRAME_16K), last=True)
    assert buffer.pop() is not None


@pytest.mark.parametrize(
    ("rate", "data", "fault"),
    [
        (16000, b"\0", "no whole samples"),
        (16000, bytes(32002), "in one message"),
        (8000, bytes(8000 * 2), "that waits"),
        (None, b"\xf0\0", "of 10000 us: agreed on"),
        (None, b"\xff" * 2, "of 1260000 us"),
        (None, b"\x03", "at least two bytes"),
    ],
)
def test_speech_that_is_not_as_agreed_is_a_fault(rate: int | None, data: bytes, fault: str) -> None:
    with pytest.raises(SpeechFault, match=fault):
        SpeechBuffer(rate, 900_000).push(1, data, last=False)


@given(
    st.sampled_from([8000, 16000, 24000, 48000]),
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 3000), st.booleans(), st.integers(0, 4)), max_size=30
    ),
)
def test_no_sample_is_lost_or_counted_twice(rate: int, steps: list[tuple[int, int, bool, int]]) -> None:
    """Whatever is pushed is popped, waits, or was cleared; and every utterance ends once."""
    buffer = SpeechBuffer(rate, 3_600_000_000)
    pushed, popped, number = 0, 0, 0
    begun: list[int] = []
    ended: list[SpeechEnded] = []
    for step, samples, last, pops in steps:
        if step == 0:
            buffer.clear()
            number += 1
        else:
            number += step == 1
            begun += [number] if number not in begun[-1:] else []
            buffer.push(number, bytes(2 * samples), last)
            number += last
            pushed += samples
        for _ in range(pops):
            frame = buffer.pop()
            popped += frame.used if frame else 0
        ended += buffer.take_ended()
    buffer.clear()
    ended += buffer.take_ended()
    assert sorted(one.utterance for one in ended) == begun
    assert buffer.used_us == pushed * 1_000_000 // rate
    assert sum(one.played_us for one in ended) <= popped * 1_000_000 // rate


async def test_what_is_interrupted_is_not_heard() -> None:
    moved = 0

    def count() -> None:
        nonlocal moved
        moved += 1

    playout = Playout(count)
    playout.begin(16000, 10_000_000)
    playout.push(1, bytes(50 * FRAME_16K), last=True)
    first = await playout.recv()
    waiting = asyncio.create_task(playout.recv())
    await asyncio.sleep(0)  # it waits until the second is due
    playout.interrupt()
    await asyncio.sleep(6 * FRAME)
    assert not waiting.done()
    assert playout.take_ended() == [SpeechEnded(1, FRAME_US, True)]
    playout.push(2, bytes(FRAME_16K), last=True)
    second = await waiting
    assert second.pts > first.pts + 960  # the pause is seen
    assert playout.take_ended() == [SpeechEnded(2, FRAME_US, False)]
    assert moved >= 4


async def test_speech_leaves_in_real_time_with_timestamps_to_match() -> None:
    playout = Playout(lambda: None)
    playout.begin(None, 10_000_000)
    for _ in range(5):
        playout.push(1, OPUS_20MS, last=False)
    clock = asyncio.get_running_loop().time
    started = clock()
    packets = [await playout.recv() for _ in range(5)]
    assert clock() - started >= 4 * FRAME  # never early
    assert {packet.pts % 960 for packet in packets} == {0}
    assert packets[0].data == OPUS_20MS


@pytest.mark.parametrize("rate", [8000, 16000, 24000, 48000])
def test_sound_survives_the_way_to_samples_and_back(rate: int) -> None:
    sound = chirps(7, 2.0)
    hearing, saying, back = decoder(rate), encoder(rate), decoder(48000)
    size, samples, returned = frame_bytes(rate), b"", b""
    for packet in encode(sound):
        assert opus_us(packet) == FRAME_US
        samples += hearing.decode(packet)
        while len(samples) >= size:
            returned += back.decode(saying.encode(samples[:size]))
            samples = samples[size:]
    heard = np.frombuffer(returned, np.int16).astype(np.float32) / 32768
    assert correlation(sound, np.concatenate([heard, np.zeros(48000, np.float32)])) > 0.85


@pytest.mark.parametrize("rate", [8000, 16000, 24000, 48000])
def test_libopus_called_directly_says_what_it_says_by_ffmpeg(rate: int) -> None:
    sound = np.ascontiguousarray(np.round(chirps(7, 1.0) * 32767).astype(np.int16)[:: 48000 // rate])
    encoding, decoding = av.CodecContext.create("libopus", "w"), av.CodecContext.create("libopus", "r")
    for codec, codec_rate in ((encoding, rate), (decoding, 48000)):
        codec.format, codec.layout, codec.sample_rate = "s16", "mono", codec_rate
    encoding.bit_rate = BIT_RATE
    encoding.options = {"application": "audio", "compression_level": str(COMPLEXITY)}
    saying, hearing = encoder(rate), decoder(48000)
    for samples in sound.reshape(-1, rate // 50):
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = rate
        (packet,) = encoding.encode(frame)
        assert saying.encode(samples.tobytes()) == bytes(packet)
        (heard,) = decoding.decode(av.Packet(bytes(packet)))
        assert hearing.decode(bytes(packet)) == heard.to_ndarray().tobytes()


def test_garbage_is_no_opus() -> None:
    random = Random(1)
    hearing = decoder(16000)
    for length in range(200):
        try:
            opus_us(data := random.randbytes(length))
            hearing.decode(data)
        except ValueError:
            continue
    assert hearing.decode(OPUS_20MS)


def test_a_ledger_keeps_the_window() -> None:
    ledger = Ledger(100_000)
    assert [ledger.sends(start, 20_000, 1.0) for start in range(0, 120_000, 20_000)] == [True] * 5 + [False]
    assert not ledger.stalled(2.0, 1.0)
    assert ledger.stalled(2.1, 1.0)
    ledger.used(20_000)
    assert not ledger.stalled(9.0, 1.0)
    assert ledger.sends(100_000, 20_000, 2.0)
    with pytest.raises(ValueError, match="was not sent"):
        ledger.used(120_000)
    assert ledger.dropped_us == 20_000


def test_a_gap_in_the_sound_takes_no_room() -> None:
    ledger = Ledger(100_000)
    assert ledger.sends(0, 20_000, 1.0)
    ledger.used(0)
    assert ledger.sends(9_000_000, 20_000, 10.0)
    assert not ledger.stalled(99.0, 1.0)  # there is room, so nobody waits


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"{}", "not_json"),
        ("hello", "not_json"),
        ("NaN", "not_json"),
        ('"\ud800"', "not_json"),
        ("[" * MESSAGE_LIMIT, "not_json"),
        (" " * (MESSAGE_LIMIT + 1), "too_long"),
        (bytes(MESSAGE_LIMIT + 1), "too_long"),
    ],
)
def test_messages_that_no_backend_gets(message: str | bytes, reason: str) -> None:
    with pytest.raises(MessageError) as caught:
        to_backend(message)
    assert json.loads(str(caught.value))["reason"] == reason


def test_messages_that_a_backend_gets() -> None:
    for text in ('{"a": 1}', "[]", "7", '"é"', "null"):
        assert to_backend(text) == text


def test_a_flood_of_messages_is_throttled_and_complained_of_once_a_second() -> None:
    throttle = Throttle(0.0)
    assert [throttle.takes(0.0) for _ in range(int(BURST) + 1)] == [True] * int(BURST) + [False]
    assert [throttle.complains(0.0), throttle.complains(0.9), throttle.complains(1.0)] == [True, False, True]
    assert [throttle.takes(0.1) for _ in range(6)] == [True] * 5 + [False]


def frames(turns: Turns, voiced: str) -> list[Began | Ended]:
    """What a pattern of 20 ms frames means: `v` is voiced."""
    heard = [
        turns.hear(number * FRAME_US, bytes([number % 256]) * FRAME_16K, mark == "v")
        for number, mark in enumerate(voiced)
    ]
    return [what for what in heard if what is not None]


def test_a_turn_begins_with_voice_and_ends_with_silence() -> None:
    began, ended = frames(Turns(Patience(voiced=120, silence=500)), "." * 30 + "v" * 20 + "." * 30)
    assert began == Began(35 * FRAME_US)
    assert isinstance(ended, Ended)
    assert ended.at_us == 50 * FRAME_US
    # From 300 ms before it was noticed until it was noticed that it was over.
    assert len(ended.sound) == (15 + 14 + 25) * FRAME_16K
    assert ended.sound[0] == 21


def test_clicks_and_pauses_are_no_turns() -> None:
    turns = Turns(Patience(voiced=120, silence=500))
    assert frames(turns, ("vv" + "." * 10) * 10) == []
    assert len(frames(turns, "v" * 10 + "." * 20 + "v" * 10)) == 1  # a breath


def test_a_turn_has_an_end_even_if_the_noise_has_none() -> None:
    turns = Turns(Patience(longest=2000))
    assert [type(what) for what in frames(turns, "v" * 250)] == [Began, Ended, Began, Ended, Began]
