# SPDX-License-Identifier: Apache-2.0
"""Every metric that earshot-transceiver has. Names and labels are API: CHANGELOG.md says when one changes.

With several workers each of them also has the label `worker`, those of the front excepted.
"""

from __future__ import annotations

from telemetry.declared import Declared, Kind

_COUNTER, _GAUGE = Kind.COUNTER, Kind.GAUGE
_P = "earshot_transceiver"

# ---- calls -------------------------------------------------------------------------------------

RELAY_ATTACHED = Declared(_GAUGE, f"{_P}_relay_attached", "1 while attached to a relay.")
RELAY_UP = Declared(
    _GAUGE,
    f"{_P}_relay_up",
    "1 while attached to this relay, or to another one that it stands by for; by what --relay has, and the "
    "region that it has said.",
    ("relay", "region"),
)
PLACED = Declared(
    _COUNTER,
    f"{_P}_placed_offers",
    "Offers by the region whose VIPs come first in the answer, and by what placed the client.",
    ("region", "by"),
)
SESSIONS = Declared(_GAUGE, f"{_P}_sessions", "Calls by state.", ("state",))
SETUPS = Declared(
    _COUNTER,
    f"{_P}_setups",
    "Offers by what became of them; `busy` is what admission has turned away.",
    ("result",),
)
SETUP_SECONDS = Declared(
    Kind.HISTOGRAM,
    f"{_P}_setup_seconds",
    "From the offer's arrival to a connected call (DTLS done).",
    bounds=(0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0),
)
CALLS_ENDED = Declared(_COUNTER, f"{_P}_calls_ended", "Ended calls by reason.", ("reason",))
FLOW_EVENTS = Declared(_COUNTER, f"{_P}_flow_events", "What the relay told of clients' flows.", ("event",))
PACKETS = Declared(_COUNTER, f"{_P}_packets", "UDP datagrams of calls.", ("direction",))
BYTES = Declared(_COUNTER, f"{_P}_bytes", "UDP payload bytes of calls.", ("direction",))
DROPPED = Declared(
    _COUNTER, f"{_P}_dropped_packets", "UDP datagrams that went no further, by reason.", ("reason",)
)
ICE_RESTARTS = Declared(_COUNTER, f"{_P}_ice_restarts", "Completed ICE restarts of calls.")

# ---- admission and speech backends -------------------------------------------------------------

LOAD = Declared(
    _GAUGE, f"{_P}_load_ratio", "Share of a core that was used lately; above --max-load calls are refused."
)
BACKEND_UP = Declared(_GAUGE, f"{_P}_backend_up", "1 while healthy.", ("backend",))
BACKEND_SESSIONS = Declared(
    _GAUGE, f"{_P}_backend_sessions", "Sessions that a speech backend has from here.", ("backend",)
)
BACKEND_FAILURES = Declared(
    _COUNTER, f"{_P}_backend_failures", "Sessions that a backend failed, by kind.", ("backend", "kind")
)
BACKEND_DROPPED = Declared(
    _COUNTER,
    f"{_P}_backend_dropped_audio_seconds",
    "Clients' sound that backends were too slow for, of sessions that are over.",
)
INTERRUPTIONS = Declared(_COUNTER, f"{_P}_interruptions", "Times that a backend stopped speech.")

# ---- the process -------------------------------------------------------------------------------

BUILD_INFO = Declared(_GAUGE, f"{_P}_build_info", "Always 1; the version of the transceiver.", ("version",))
WORKERS = Declared(_GAUGE, f"{_P}_workers", "Worker processes that run; only with --workers.")
WORKER_RESTARTS = Declared(
    _COUNTER,
    f"{_P}_worker_restarts",
    "Worker processes started again after a death; only with --workers.",
)

ALL = tuple(value for value in list(globals().values()) if isinstance(value, Declared))
OF_THE_FRONT = (WORKERS, WORKER_RESTARTS)
