# SPDX-License-Identifier: Apache-2.0
"""What is in each map: the types of keys and values, and what it is for. bpf/maps.h has more.

By name, which has the version of the layout in it. Tests compare the sizes with the object's.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from control import abi, former_quality

# Where nothing of the values is shown: they pass through states of secrets.
HIDDEN = np.dtype(np.void)


class MapType(NamedTuple):
    """One map.

    Attributes:
        key: None: entries are numbered, or have no key.
        value: HIDDEN: it is nobody's business.
        purpose: for people.
    """

    key: npt.DTypeLike | None
    value: npt.DTypeLike
    purpose: str


MAP_TYPES: dict[str, MapType] = {
    "layout_v1": MapType(None, abi.LAYOUT, "how the flow table is laid out"),
    "locals_v2": MapType(None, abi.LOCALS, "addresses of this relay, by a perfect hash"),
    "vips_v1": MapType(None, abi.VIP, "VIPs by number"),
    "relays_v1": MapType(None, abi.RELAY, "relay addresses by number"),
    "links_v1": MapType("=u4", abi.LINK_INFO, "links that the program is attached to, by ifindex"),
    "hops_v1": MapType(None, abi.HOP, "next hops by number"),
    "hop_index_v1": MapType(abi.HOP_KEY, "=u4", "numbers of next hops, by neighbour and ifindex"),
    "last_hop_v1": MapType(None, abi.LAST_HOP, "the next hop that each CPU came upon last"),
    "free_hops_v1": MapType(None, "=u4", "a queue of numbers of unused next hops: the first of it is shown"),
    "sessions_v1": MapType(abi.UFRAG_KEY, abi.SESSION, "sessions by ufrag"),
    "fleet_keys_v1": MapType(None, HIDDEN, "keys that routable ufrags are made with"),
    "fleet_owners_v1": MapType(None, abi.FLEET_OWNER, "endpoints by the transceivers' numbers in the fleet"),
    "derived_v1": MapType(None, "=u8", "when budgets of sessions that nobody has registered are whole again"),
    "owners_v1": MapType(None, abi.OWNER, "transceivers by number"),
    "backends_v1": MapType(None, abi.BACKEND, "endpoints of transceivers by number"),
    "flows_v2": MapType(None, abi.FLOW, "flows, a record for each relay port"),
    "flow_index_v2": MapType(None, abi.BUCKET, "numbers of flows, by a hash of the client's 5-tuple"),
    "quality_v2": MapType(None, abi.QUALITY, "what is measured of each flow: a stream each way"),
    "quality_more_v1": MapType(None, abi.QUALITY_MORE, "likewise: its further streams, and round trips"),
    "free_flows_v2": MapType(None, abi.FREE_LINE, "rings of numbers of free flow records"),
    "free_lists_v1": MapType(None, abi.FREE_LIST, "where these rings begin and end, for IPv4 and IPv6"),
    "lease_v1": MapType(None, abi.LEASE, "until when new flows may be bound, ns of the monotonic clock"),
    "sources_v2": MapType(None, "=u8", "when budgets of sources are whole again, ns of the monotonic clock"),
    "exempt_v1": MapType(abi.PREFIX_KEY, "=u1", "sources without a budget"),
    "bindings_v1": MapType(None, "=u8", "when each CPU's budget of new flows is whole again, likewise"),
    "last_drops_v1": MapType(None, abi.LAST_DROPS, "what each CPU dropped last, by a hash of the 5-tuple"),
    "taps_v1": MapType(None, abi.TAPS, "who looks at packets, and at which: earshot trace and capture"),
    "tap_rings_v1": MapType(None, HIDDEN, "where packets go that somebody looks at"),
    "tap_event_v1": MapType(None, HIDDEN, "what each CPU is about to tell of a packet"),
    "scratch_v3": MapType(None, HIDDEN, "where each CPU checks requests"),
    "reasons_v1": MapType(None, abi.REASON_COUNTER, "packets and bytes by reason"),
    # Of former layouts, as long as somebody may still have them (control/carry.py).
    "flows_v1": MapType(None, abi.FLOW, "flows of the first layout"),
    "quality_v1": MapType(None, former_quality.RECORD, "what is measured of each flow, of the first layout"),
}
