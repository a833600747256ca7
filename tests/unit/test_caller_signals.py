# SPDX-License-Identifier: Apache-2.0
"""The proof that an echo holds the sent signal: it must pass what is an echo, and nothing else."""

from __future__ import annotations

import wave
from pathlib import Path

import av
import numpy as np
import pytest

from tests.lab.signals import (
    FRAME,
    RATE,
    THRESHOLD,
    Samples,
    chirps,
    correlation,
    encode,
    from_wav,
    share_found,
)

SECONDS = 3.0
SENT = chirps(1, SECONDS)


def decoded(packets: list[bytes]) -> Samples:
    codec = av.CodecContext.create("libopus", "r")
    assert isinstance(codec, av.AudioCodecContext)
    codec.format, codec.layout, codec.sample_rate = "s16", "stereo", RATE  # type: ignore[assignment]
    frames = [frame for packet in packets for frame in codec.decode(av.Packet(packet))]
    return (
        np.concatenate([frame.to_ndarray().reshape(-1)[::2] for frame in frames]).astype(np.float32) / 32768
    )


CODED = decoded(encode(SENT))


def delayed(sound: Samples, seconds: float) -> Samples:
    return np.concatenate([np.zeros(round(seconds * RATE), np.float32), sound])


@pytest.mark.parametrize("delay", [0.0, 0.0001, 0.02, 0.3337, 1.0])
def test_an_echo_passes_at_any_delay(delay: float) -> None:
    assert correlation(SENT, delayed(CODED, delay)) > 0.9


def test_a_copy_scores_one() -> None:
    assert correlation(SENT, SENT) == pytest.approx(1, abs=0.001)


def test_an_echo_whose_first_second_went_unheard_passes() -> None:
    assert correlation(SENT, CODED[RATE:]) > THRESHOLD


def test_an_echo_with_a_tenth_of_its_packets_lost_passes() -> None:
    received = CODED[: len(CODED) // FRAME * FRAME].reshape(-1, FRAME).copy()
    received[::10] = 0
    assert correlation(SENT, received.reshape(-1)) > 0.9


def test_a_quieter_echo_passes() -> None:
    assert correlation(SENT, 0.05 * CODED) > 0.9


def test_another_calls_signal_fails() -> None:
    assert all(correlation(SENT, chirps(seed, SECONDS)) < THRESHOLD / 2 for seed in range(2, 12))


def test_noise_fails() -> None:
    noise = np.random.default_rng(7).normal(0, 0.2, len(SENT)).astype(np.float32)
    assert correlation(SENT, noise) < THRESHOLD / 2


def test_pieces_are_found_however_they_were_shifted_and_strangers_are_not() -> None:
    sent = np.tile(chirps(3, 4.0), 2)
    parts = np.array_split(chirps(3, 4.0), 3)
    shifted = np.concatenate([part for each in parts for part in (each, np.zeros(1000, np.float32))])
    assert share_found(sent, shifted) > 0.6
    assert share_found(sent, chirps(4, 4.0)) == 0
    assert share_found(sent, np.zeros(48000, np.float32)) == 0


def test_silence_fails() -> None:
    assert correlation(SENT, np.zeros_like(SENT)) == 0


def test_hum_fails() -> None:
    hum = np.sin(2 * np.pi * 440 * np.arange(len(SENT)) / RATE).astype(np.float32)
    assert correlation(SENT, hum) < THRESHOLD / 2


def test_a_quarter_of_an_echo_fails() -> None:
    assert correlation(SENT, CODED[: len(CODED) // 4]) < THRESHOLD


def test_a_seed_gives_the_same_signal_again() -> None:
    assert np.array_equal(chirps(5, 0.5), chirps(5, 0.5))


def test_a_file_is_played_from_a_place_of_its_own_for_each_seed(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    rate = 16000
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((chirps(9, 2.0)[::3] * 32767).astype("<i2").tobytes())
    first, second = from_wav(path, 1, SECONDS), from_wav(path, 2, SECONDS)
    assert len(first) == len(second) == SECONDS * RATE
    assert np.abs(first).max() > 0.1
    assert not np.array_equal(first, second)
