# SPDX-License-Identifier: Apache-2.0
"""What this code leans on inside aiortc and aioice without their promise, in one place.

`check` says whether every name is there; `prepare`, called once at start, also puts two of ours in:

- `aiortc.rtcicetransport.Connection`: aiortc makes its ICE connection itself and lets nobody choose it;
- `aiortc.rtcrtpreceiver.get_decoder`: Opus is handed on as it came. Decoding and encoding again would
  take most of the process's time; who wants samples can decode where they are wanted.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

import aioice.ice
import aiortc.codecs
import aiortc.rtcicetransport
import aiortc.rtcrtpreceiver
import av

from transceiver.errors import LibraryError
from transceiver.ice import LiteConnection

_NAMES: tuple[tuple[str, Any, tuple[str, ...]], ...] = (
    ("aiortc", aiortc.rtcicetransport, ("Connection",)),
    ("aiortc", aiortc.rtcrtpreceiver, ("get_decoder",)),
    ("aiortc", aiortc.codecs.opus, ("OpusDecoder", "TIME_BASE")),
    ("aiortc", aiortc.codecs.opus.OpusEncoder, ("pack",)),
    ("aioice", aioice.ice, ("CandidatePair", "StunProtocol")),
    ("aioice", aioice.ice.StunProtocol, ("datagram_received", "send_data", "send_stun")),
    (
        "aioice",
        aioice.Connection,
        ("gather_candidates", "connect", "close", "check_incoming", "data_received", "request_received"),
    ),
)
_CONNECTION_ATTRIBUTES = (
    "_early_checks",
    "_early_checks_done",
    "_local_candidates",
    "_local_candidates_end",
    "_nominated",
    "_protocols",
    "remote_password",
    "remote_username",
)


class PassThrough:
    """In the place of an Opus decoder: packets instead of samples."""

    def decode(self, encoded_frame: Any) -> list[av.Packet[Any]]:
        packet = av.Packet(encoded_frame.data)
        packet.pts = encoded_frame.timestamp
        packet.time_base = aiortc.codecs.opus.TIME_BASE
        return [packet]


def check() -> None:
    """Raises `LibraryError` naming library, version and what is missing."""
    for library, owner, names in _NAMES:
        _check(library, owner, names)
    _check("aioice", aioice.Connection(ice_controlling=False), _CONNECTION_ATTRIBUTES)


def prepare() -> None:
    """Checks the libraries (raising as `check` does) and fits ours in."""
    check()
    stock_decoder = aiortc.codecs.get_decoder
    aiortc.rtcicetransport.Connection = LiteConnection
    aiortc.rtcrtpreceiver.get_decoder = lambda codec: (
        PassThrough() if codec.name.lower() == "opus" else stock_decoder(codec)
    )


def _check(library: str, owner: Any, names: tuple[str, ...]) -> None:
    missing = [name for name in names if not hasattr(owner, name)]
    if missing:
        where = getattr(owner, "__name__", type(owner).__name__)
        raise LibraryError(
            f"{library} {importlib.metadata.version(library)} has no {', '.join(missing)} in {where}: "
            "install the version that pyproject.toml names"
        )
