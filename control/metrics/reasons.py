# SPDX-License-Identifier: Apache-2.0
"""What a reason says beside itself: which way its packets were going, and what became of a binding.

The program counts by reason alone. Most of its reasons can only be had by packets of one side.
"""

from __future__ import annotations

from control.abi import Reason

UP, DOWN, EITHER, HOST = "to_transceiver", "to_client", "either", "host"

_DOWN = frozenset(
    {
        Reason.FORWARD_TO_CLIENT,
        Reason.DROP_NO_RELAY_FLOW,
        Reason.DROP_WRONG_BACKEND,
        Reason.DROP_STALE_FLOW,
    }
)
# Found before it is known which side a packet is from, or where both sides' ways are one.
_EITHER = frozenset(
    {
        Reason.DROP_TRUNCATED,
        Reason.DROP_BAD_LENGTH,
        Reason.DROP_FRAGMENT,
        Reason.DROP_IP_OPTIONS,
        Reason.DROP_IPV6_EXTENSION,
        Reason.DROP_IPV6_NO_CHECKSUM,
        Reason.DROP_TTL,
        Reason.DROP_EMPTY,
        Reason.DROP_NOT_RTC,
        Reason.DROP_STUN_SHORT,
        Reason.DROP_STUN_LENGTH,
        Reason.DROP_STUN_COOKIE,
        Reason.DROP_SPOOFED_SOURCE,
        Reason.DROP_HOP_UNRESOLVED,
        Reason.DROP_TOO_BIG,
        Reason.ABORTED_BAD_NUMBER,
        Reason.DROP_PROVISIONAL,
        Reason.DROP_BUSY,
    }
)


def direction(reason: Reason) -> str:
    """Where packets of that reason were going: to_transceiver, to_client, either of them, or to the host."""
    if reason.name.startswith("PASS_"):
        return HOST
    if reason in _EITHER:
        return EITHER
    return DOWN if reason in _DOWN else UP


# What became of Binding Requests that asked for something new: reasons that no other packet can have. One
# that keeps a flow alive which is there already is `forward_to_transceiver`, and in none of these.
BINDINGS: dict[str, tuple[Reason, ...]] = {
    "bound": (Reason.FORWARD_BOUND,),
    "rebound": (Reason.FORWARD_REBOUND,),
    "provisional": (Reason.FORWARD_PROVISIONAL,),
    "unknown_ufrag": (Reason.DROP_UNKNOWN_UFRAG, Reason.DROP_UNKNOWN_OWNER),
    "forged": (
        Reason.DROP_UFRAG_FORGED,
        Reason.DROP_STUN_NO_FINGERPRINT,
        Reason.DROP_STUN_FINGERPRINT,
        Reason.DROP_STUN_NO_INTEGRITY,
        Reason.DROP_STUN_INTEGRITY,
    ),
    "malformed": (
        Reason.DROP_STUN_ATTRIBUTE,
        Reason.DROP_STUN_TOO_MANY_ATTRIBUTES,
        Reason.DROP_STUN_NO_USERNAME,
        Reason.DROP_STUN_USERNAME_EMPTY,
        Reason.DROP_STUN_USERNAME_NO_COLON,
        Reason.DROP_STUN_USERNAME_TOO_LONG,
        Reason.DROP_BAD_SOURCE,
    ),
    "over_budget": (
        Reason.DROP_SOURCE_BUDGET,
        Reason.DROP_BINDING_BUDGET,
        Reason.DROP_SESSION_BUDGET,
    ),
    "full": (
        Reason.DROP_FLOWS_FULL,
        Reason.DROP_HOPS_FULL,
        Reason.DROP_INDEX_FULL,
        Reason.DROP_FREE_LIST,
    ),
    "no_lease": (Reason.DROP_LEASE_EXPIRED,),
    "unreachable": (Reason.DROP_NO_BACKEND, Reason.DROP_UNROUTABLE),
}
