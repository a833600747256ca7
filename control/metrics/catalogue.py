# SPDX-License-Identifier: Apache-2.0
"""Every metric that earshotd has. Names and labels are API: CHANGELOG.md says when one changes."""

from __future__ import annotations

from telemetry.declared import Declared, Kind

_COUNTER, _GAUGE = Kind.COUNTER, Kind.GAUGE

# ---- packets: what the program counts ----------------------------------------------------------

PACKETS = Declared(
    _COUNTER,
    "earshot_datapath_packets",
    "Packets by what the program did with them, and which way they were going.",
    ("direction", "reason"),
)
BYTES = Declared(_COUNTER, "earshot_datapath_bytes", "Bytes of the same packets.", ("direction", "reason"))
BINDINGS = Declared(
    _COUNTER,
    "earshot_bindings",
    "Binding Requests that asked for a flow, by result. Requests that keep one alive are in none.",
    ("result",),
)

# ---- the program -------------------------------------------------------------------------------

PROGRAM_INFO = Declared(
    _GAUGE, "earshot_program_info", "Always 1; the kernel's hash of the program that runs.", ("tag",)
)
PROGRAM_LOADED = Declared(
    _GAUGE, "earshot_program_loaded_timestamp_seconds", "When the program that runs was loaded."
)
PROGRAM_ATTACHED = Declared(
    _GAUGE,
    "earshot_program_attached",
    "1 where this program is attached to a link of the configuration, 0 where it is not.",
    ("interface",),
)
PROGRAM_RUNS = Declared(
    _COUNTER,
    "earshot_program_runs",
    "Packets while the kernel's run-time statistics were on (kernel.bpf_stats_enabled, or run_time_stats).",
)
PROGRAM_RUN_SECONDS = Declared(
    _COUNTER, "earshot_program_run_seconds", "What the program took for these packets."
)
PACKET_SECONDS = Declared(
    Kind.HISTOGRAM,
    "earshot_program_packet_seconds",
    "What a packet takes: means over 50 ms, sampled for one second of each minute (run_time_stats).",
    bounds=(25e-9, 50e-9, 75e-9, 1e-7, 1.5e-7, 2e-7, 3e-7, 5e-7, 7.5e-7, 1e-6, 2e-6, 5e-6, 1e-5),
)

# ---- flows, ports and tables -------------------------------------------------------------------

FLOWS = Declared(_GAUGE, "earshot_flows", "Flows that are live.")
FLOWS_PROVISIONAL = Declared(
    _GAUGE, "earshot_flows_provisional", "Flows that their transceiver has not confirmed yet."
)
FLOW_CAPACITY = Declared(_GAUGE, "earshot_flow_capacity", "Flows that fit.")
FLOWS_ENDED = Declared(
    _COUNTER, "earshot_flows_ended", "Flows that the daemon has ended since it started, by why.", ("reason",)
)
RELAY_PORTS = Declared(
    _GAUGE,
    "earshot_relay_ports",
    "Ports of each relay address by the state of their flow; one that is dead rests before it is free.",
    ("relay_address", "state"),
)
ADDRESSES_HELD = Declared(
    _GAUGE,
    "earshot_relay_addresses_held",
    "1 where new flows are bound; 0 while another relay of the group may have this one's relay addresses.",
)
ADDRESSES_TAKEN = Declared(
    _GAUGE,
    "earshot_relay_addresses_taken",
    "Relay addresses of other relays of the group that this one answers for.",
)
GROUP_FLOWS = Declared(
    _COUNTER,
    "earshot_group_flows",
    "Flows of the group's other relays that were told of, by what became of them here.",
    ("outcome",),
)
GROUP_WAITING = Declared(
    _GAUGE,
    "earshot_group_flows_waiting",
    "Flows of the group's other relays that are not entered yet: mostly for want of their session.",
)
GROUP_ABSENT = Declared(
    _GAUGE,
    "earshot_group_addresses_absent",
    "Relay addresses of the group whose relay does not answer this one directly. While there are any, no new "
    "flow is bound when the directory is away.",
)
GROUP_PROMISES = Declared(
    _COUNTER,
    "earshot_group_promises",
    "Promises not to take another relay's addresses, which stand in for leases while the directory is away.",
    ("outcome",),
)
GROUP_REFUSED = Declared(
    _COUNTER,
    "earshot_group_datagrams_refused",
    "Datagrams at group_port that are not believed.",
    ("reason",),
)
TABLE_ENTRIES = Declared(_GAUGE, "earshot_table_entries", "Entries of a table that are in use.", ("table",))
TABLE_CAPACITY = Declared(_GAUGE, "earshot_table_capacity", "Entries of a table that fit.", ("table",))
OCCUPANCY = Declared(
    _GAUGE,
    "earshot_table_occupancy_ratio",
    "How full a table is: from 0.7 on it is worth an alarm, at 1 it refuses.",
    ("table",),
)

# ---- quality: how live calls fare ----------------------------------------------------------------

STREAM_LOSS = Declared(
    Kind.GAUGE_HISTOGRAM,
    "earshot_stream_loss_ratio",
    "RTP streams that flow now, by the share of their packets that never reached the relay. Like "
    "what follows, of 100,000 flows at the most, evenly chosen.",
    ("direction",),
    (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
)
STREAM_JITTER = Declared(
    Kind.GAUGE_HISTOGRAM,
    "earshot_stream_jitter_seconds",
    "RTP streams that flow now, by their jitter at the relay (RFC 3550).",
    ("direction",),
    (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2),
)
ROUND_TRIP = Declared(
    Kind.GAUGE_HISTOGRAM,
    "earshot_round_trip_seconds",
    "Live flows, by the time from the relay to one of their sides and back.",
    ("side",),
    (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0),
)

# ---- sessions and who registers them -----------------------------------------------------------

SESSIONS = Declared(_GAUGE, "earshot_sessions", "Sessions registered.")
UFRAGS = Declared(_GAUGE, "earshot_ufrags", "Session map entries in use.")
BACKENDS = Declared(_GAUGE, "earshot_backends", "Endpoints of transceivers.")
TRANSCEIVERS = Declared(_GAUGE, "earshot_transceivers", "Transceivers by state.", ("state",))
SESSION_OPERATIONS = Declared(
    _COUNTER,
    "earshot_session_operations",
    "What transceivers wanted of single sessions since the daemon started, by result.",
    ("operation", "code"),
)
EVENTS_DROPPED = Declared(
    _COUNTER,
    "earshot_stream_events_dropped",
    "Flow events not sent because a transceiver did not read.",
)
CALLS_REFUSED = Declared(
    _COUNTER,
    "earshot_calls_refused",
    "gRPC connections and calls that were one too many, of a caller or in all.",
)
GRPC_CALLS = Declared(
    _COUNTER, "earshot_grpc_calls", "gRPC calls that have ended, by method and status.", ("method", "code")
)
GRPC_OPEN = Declared(_GAUGE, "earshot_grpc_calls_open", "gRPC calls that are open.", ("method",))
GRPC_SECONDS = Declared(
    Kind.HISTOGRAM,
    "earshot_grpc_call_seconds",
    "What gRPC calls took that are one request; streams of requests are in none.",
    ("method",),
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)

# ---- the directory: what relays of a region tell each other --------------------------------------

DIRECTORY_CONFIGURED = Declared(
    _GAUGE, "earshot_directory_configured", "1 where relays share their sessions (`directory`)."
)
DIRECTORY_UP = Declared(_GAUGE, "earshot_directory_up", "1 while Redis answers.")
DIRECTORY_FAILURES = Declared(
    _COUNTER, "earshot_directory_failures", "Commands that Redis did not answer, or refused."
)
DIRECTORY_LAG = Declared(
    _GAUGE,
    "earshot_directory_lag_seconds",
    "What the relay's last beat took through Redis and back to itself; grows while none comes back.",
)
DIRECTORY_RELAYS = Declared(_GAUGE, "earshot_directory_relays", "Other relays that are heard.")
DIRECTORY_TRANSCEIVERS = Declared(
    _GAUGE,
    "earshot_directory_transceivers",
    "Transceivers by where they are attached; silent: where they were, no relay is heard any more.",
    ("where",),
)
DIRECTORY_QUEUED = Declared(
    _GAUGE, "earshot_directory_queued_sessions", "Sessions whose change others were not told of yet."
)
DIRECTORY_PENDING = Declared(
    _GAUGE,
    "earshot_directory_pending_sessions",
    "Sessions of other relays that could not be entered here; they are tried again each second.",
)
DIRECTORY_CHANGES = Declared(
    _COUNTER,
    "earshot_directory_changes",
    "Changes of sessions, told to others and heard of them.",
    ("direction",),
)
DIRECTORY_STATES_READ = Declared(
    _COUNTER,
    "earshot_directory_states_read",
    "Transceivers whose whole state was read, since something of it was missed.",
)
DIRECTORY_REFUSED = Declared(
    _COUNTER,
    "earshot_directory_refused",
    "What stood in Redis and was not believed, by why.",
    ("reason",),
)
DIRECTORY_NAME_DISPUTED = Declared(
    _GAUGE, "earshot_directory_name_disputed", "1 while another daemon that runs has this relay's name."
)

# ---- the daemon --------------------------------------------------------------------------------

DRAINING = Declared(_GAUGE, "earshot_draining", "1 while no new session is taken.")
READY = Declared(
    _GAUGE,
    "earshot_ready",
    "1 while health and `/readyz` say that packets should come here: unless it drains or catches up.",
)
SWEEP_AGE = Declared(
    _GAUGE,
    "earshot_sweep_age_seconds",
    "Time since the daemon last looked at all flows, and at all sessions; it does so several times a second.",
    ("sweep",),
)
STALLS = Declared(
    _COUNTER, "earshot_stalls", "Times that the daemon came to a sweep more than two seconds late."
)
RELOADS = Declared(
    _COUNTER,
    "earshot_reloads",
    "Configurations read again since the daemon started: ok, refused for what they say, or failed.",
    ("result",),
)
RELOAD_OK = Declared(
    _GAUGE, "earshot_last_reload_successful", "1 if the last reload was, or if there was none."
)
RELOAD_TIME = Declared(
    _GAUGE,
    "earshot_last_reload_timestamp_seconds",
    "When a configuration was last taken over; the start counts.",
)
UPGRADES = Declared(
    _COUNTER,
    "earshot_upgrades",
    "Programs put in place by `earshot datapath upgrade` since the daemon started, by result.",
    ("result",),
)
UPGRADE_OK = Declared(
    _GAUGE, "earshot_last_upgrade_successful", "1 if the last upgrade was, or if there was none."
)
UPGRADE_TIME = Declared(
    _GAUGE,
    "earshot_last_upgrade_timestamp_seconds",
    "When a program was last put in place; the start counts.",
)
RELAY_INFO = Declared(
    _GAUGE, "earshot_relay_info", "Always 1; the relay's name and region.", ("relay", "region")
)
BUILD_INFO = Declared(_GAUGE, "earshot_build_info", "Always 1; the version of the daemon.", ("version",))

ALL = tuple(value for value in list(globals().values()) if isinstance(value, Declared))
