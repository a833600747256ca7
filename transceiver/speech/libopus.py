# SPDX-License-Identifier: Apache-2.0
"""libopus, called directly: the copy that PyAV brings and has loaded. The only foreign-function calls here.

By way of FFmpeg a packet is decoded at 48 kHz and then resampled by a filter graph, and each frame passes
through half a dozen objects: more time than libopus itself takes, which decodes at the rate that is wanted.
Of its interface only what has been there since 1.0 is used (opus_defines.h). The GIL is kept: a call takes
some 30 us, and another thread of this process has nothing to do that could not wait so long.
"""

from __future__ import annotations

import ctypes
import functools
import weakref
from pathlib import Path

import av  # noqa: F401  # loads it

from transceiver.errors import LibraryError

_APPLICATION_AUDIO = 2049
_SET_BITRATE, _SET_VBR, _SET_COMPLEXITY, _SET_VBR_CONSTRAINT = 4002, 4006, 4010, 4020
_LONGEST_MS = 120  # of a packet
_LARGEST = 1276  # bytes of a frame of 20 ms (RFC 6716, 3.2.1), with its first
_STATE, _ERROR = ctypes.c_void_p, ctypes.POINTER(ctypes.c_int)


@functools.cache
def library() -> ctypes.PyDLL:
    """The library. Raises `LibraryError` if PyAV has loaded none."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.partition("/")[2]
        if path.rpartition("/")[2].startswith("libopus"):
            break
    else:
        raise LibraryError("av has no libopus: install a build that has, such as the Python index's")
    opus = ctypes.PyDLL(f"/{path}")
    opus.opus_strerror.restype = ctypes.c_char_p
    opus.opus_decoder_create.restype = opus.opus_encoder_create.restype = _STATE
    opus.opus_decoder_create.argtypes = [ctypes.c_int32, ctypes.c_int, _ERROR]
    opus.opus_encoder_create.argtypes = [ctypes.c_int32, ctypes.c_int, ctypes.c_int, _ERROR]
    opus.opus_decoder_destroy.argtypes = opus.opus_encoder_destroy.argtypes = [_STATE]
    opus.opus_encoder_ctl.argtypes = [_STATE, ctypes.c_int]
    sound, length = ctypes.c_char_p, ctypes.c_int32
    opus.opus_decode.argtypes = [_STATE, ctypes.c_char_p, length, sound, ctypes.c_int, ctypes.c_int]
    opus.opus_encode.argtypes = [_STATE, sound, ctypes.c_int, ctypes.c_char_p, length]
    return opus


class OpusDecoder:
    """Of one stream, to mono samples of 16 bits at `rate`: 8, 12, 16, 24 or 48 kHz."""

    def __init__(self, rate: int) -> None:
        self._opus = library()
        self._state = _made(self._opus.opus_decoder_create, rate, 1)
        weakref.finalize(self, self._opus.opus_decoder_destroy, self._state).atexit = False
        self._room = rate * _LONGEST_MS // 1000
        self._samples = ctypes.create_string_buffer(2 * self._room)

    def decode(self, packet: bytes) -> bytes:
        """Raises `ValueError` if it is not Opus."""
        count = self._opus.opus_decode(self._state, packet, len(packet), self._samples, self._room, 0)
        if count < 0:
            raise ValueError(_text(count))
        return ctypes.string_at(self._samples, 2 * count)


class OpusEncoder:
    """Of one stream, from mono samples of 16 bits at `rate`; of a bit rate that varies around `bit_rate`."""

    def __init__(self, rate: int, bit_rate: int, complexity: int) -> None:
        self._opus = library()
        self._state = _made(self._opus.opus_encoder_create, rate, 1, _APPLICATION_AUDIO)
        weakref.finalize(self, self._opus.opus_encoder_destroy, self._state).atexit = False
        for request, value in (
            (_SET_BITRATE, bit_rate),
            (_SET_VBR, 1),
            (_SET_VBR_CONSTRAINT, 0),
            (_SET_COMPLEXITY, complexity),
        ):
            if self._opus.opus_encoder_ctl(self._state, request, ctypes.c_int(value)) != 0:
                raise ValueError(f"libopus does not take {value} for {request}")
        self._packet = ctypes.create_string_buffer(_LARGEST)

    def encode(self, samples: bytes) -> bytes:
        """One packet of all of them; raises `ValueError` if they are no 2.5, 5, 10, 20, 40 or 60 ms."""
        count = self._opus.opus_encode(self._state, samples, len(samples) // 2, self._packet, _LARGEST)
        if count < 0:
            raise ValueError(_text(count))
        return ctypes.string_at(self._packet, count)


def _made(create: ctypes._FuncPointer, *parameters: int) -> ctypes.c_void_p:
    error = ctypes.c_int()
    state = create(*parameters, ctypes.byref(error))
    if not state:
        raise ValueError(_text(error.value))
    return ctypes.c_void_p(state)


def _text(error: int) -> str:
    return str(library().opus_strerror(error).decode())
