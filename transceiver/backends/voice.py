# SPDX-License-Identifier: Apache-2.0
"""Speech by espeak-ng, a program of its own: samples as it makes them."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncGenerator

import av
import numpy as np

RATE = 24000  # of what is returned
PIECE = RATE // 5  # samples: 200 ms
_HEADER = 44  # bytes of RIFF before the samples
_ESPEAK_RATE = 22050
_COMMAND = ("--stdout", "-v", "en-us", "-s", "160", "--")
TIMEOUT = 10.0


class VoiceError(Exception):
    """espeak-ng is not there, or failed."""


def check() -> None:
    """Raises `VoiceError` if there is no espeak-ng."""
    if shutil.which("espeak-ng") is None:
        raise VoiceError("espeak-ng is not installed (Debian's package has that name)")


async def speak(text: str) -> AsyncGenerator[bytes, None]:
    """Signed 16-bit samples of `RATE`, piece by piece, as fast as they are made. Raises `VoiceError`."""
    process = await asyncio.create_subprocess_exec(
        "espeak-ng", *_COMMAND, text, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert process.stdout is not None
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE, frame_size=PIECE)
    try:
        async with asyncio.timeout(TIMEOUT):
            with contextlib.suppress(asyncio.IncompleteReadError):
                await process.stdout.readexactly(_HEADER)
            left = b""
            while data := await process.stdout.read(65536):
                whole = (len(left) + len(data)) // 2 * 2
                samples, left = (left + data)[:whole], (left + data)[whole:]
                for piece in _resampled(resampler, samples):
                    yield piece
            for piece in _resampled(resampler, b""):
                yield piece
            if await process.wait() != 0:
                raise VoiceError(f"espeak-ng ended with {process.returncode}")
    except TimeoutError:
        raise VoiceError(f"espeak-ng took more than {TIMEOUT:g} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _resampled(resampler: av.AudioResampler, samples: bytes) -> list[bytes]:
    """No samples: what is left in the resampler."""
    frame = None
    if samples:
        frame = av.AudioFrame.from_ndarray(
            np.frombuffer(samples, np.int16).reshape(1, -1), format="s16", layout="mono"
        )
        frame.sample_rate = _ESPEAK_RATE
    return [piece.to_ndarray().tobytes() for piece in resampler.resample(frame)]
