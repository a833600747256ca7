# SPDX-License-Identifier: Apache-2.0
"""What each reason means, and the usual cure: the one place that says so.

The rows of bpf/README.md are made of it (bpf/generate_reasons.py), `earshot drops` and `earshot why` show it.
Words between backticks are commands, settings and the like: code in the README, bare in a terminal.
"""

from __future__ import annotations

from typing import NamedTuple

from control.abi import Reason


class Explained(NamedTuple):
    """One reason.

    Attributes:
        meaning: what such a packet is, or what was wrong with it.
        cure: what to do about it where it should not happen; empty: there is nothing to be done.
    """

    meaning: str
    cure: str


ACTIONS = {"pass": "PASS", "forward": "TX or REDIRECT", "drop": "DROP", "aborted": "ABORTED"}

EXPLAINED: dict[Reason, Explained] = {
    Reason.PASS_NOT_IP: Explained(
        "neither IPv4 nor IPv6 (ARP, LLDP), or the IP header is cut short",
        "",
    ),
    Reason.PASS_VLAN: Explained(
        "behind a VLAN tag",
        "name the VLAN's own link (`eth0.5`) in `interfaces`, or take the tag off on the way",
    ),
    Reason.PASS_NOT_UDP: Explained(
        "IP, but not UDP: SSH, gRPC, ICMP",
        "",
    ),
    Reason.PASS_NOT_OURS: Explained(
        "UDP, but neither to a VIP nor to a relay port",
        "if it is your clients': compare `earshot vip list` with what the SDP answers say",
    ),
    Reason.FORWARD_TO_TRANSCEIVER: Explained(
        "a client's packet, by its flow",
        "",
    ),
    Reason.FORWARD_TO_CLIENT: Explained(
        "a transceiver's packet, by its flow",
        "",
    ),
    Reason.FORWARD_BOUND: Explained(
        "a Binding Request that made a flow",
        "",
    ),
    Reason.FORWARD_REBOUND: Explained(
        "a Binding Request that re-pointed a 5-tuple from another session",
        "",
    ),
    Reason.DROP_TRUNCATED: Explained(
        "to us, but a header, or what a header announces, is cut short",
        "a link that damages packets, or somebody probing",
    ),
    Reason.DROP_BAD_LENGTH: Explained(
        "the UDP length is not what IP carries",
        "a link that damages packets, or somebody probing",
    ),
    Reason.DROP_FRAGMENT: Explained(
        "a fragment to us, or one whose port cannot be told to an address of ours",
        "WebRTC stays below 1,200 bytes: look for a tunnel with a small MTU on the way",
    ),
    Reason.DROP_IP_OPTIONS: Explained(
        "IPv4 options, to us",
        "no WebRTC client sends them",
    ),
    Reason.DROP_IPV6_EXTENSION: Explained(
        "IPv6 extension headers, to us",
        "no WebRTC client sends them",
    ),
    Reason.DROP_IPV6_NO_CHECKSUM: Explained(
        "UDP checksum 0 over IPv6 (RFC 8200, 8.1)",
        "a sender, or a load balancer before the relay, that leaves it out",
    ),
    Reason.DROP_TTL: Explained(
        "the TTL or hop limit would reach 0",
        "a routing loop, or a traceroute",
    ),
    Reason.DROP_EMPTY: Explained(
        "UDP without payload",
        "somebody probing",
    ),
    Reason.DROP_NOT_RTC: Explained(
        "the first byte is none of STUN's, DTLS's, RTP's (RFC 7983)",
        "something else sends to the VIP: TURN, QUIC, scanners",
    ),
    Reason.DROP_STUN_SHORT: Explained(
        "less than a STUN header",
        "somebody probing",
    ),
    Reason.DROP_STUN_LENGTH: Explained(
        "STUN's length is not that of the payload, or no multiple of 4",
        "somebody probing",
    ),
    Reason.DROP_STUN_COOKIE: Explained(
        "not STUN's magic cookie",
        "a client from before RFC 5389",
    ),
    Reason.DROP_STUN_ATTRIBUTE: Explained(
        "an attribute reaches beyond the message",
        "somebody probing",
    ),
    Reason.DROP_STUN_TOO_MANY_ATTRIBUTES: Explained(
        "more than 15 attributes",
        "no WebRTC client sends as many",
    ),
    Reason.DROP_STUN_NO_USERNAME: Explained(
        "a Binding Request without USERNAME before MESSAGE-INTEGRITY",
        "a plain STUN client takes the VIP for a STUN server",
    ),
    Reason.DROP_STUN_USERNAME_EMPTY: Explained(
        "USERNAME is empty",
        "somebody probing",
    ),
    Reason.DROP_STUN_USERNAME_NO_COLON: Explained(
        "no colon in USERNAME behind a possible ufrag",
        "an agent before RFC 5245, or a ufrag longer than 32",
    ),
    Reason.DROP_STUN_USERNAME_TOO_LONG: Explained(
        "USERNAME is longer than 512 bytes",
        "somebody probing",
    ),
    Reason.DROP_UNKNOWN_UFRAG: Explained(
        "no session has the ufrag",
        "few: clients that go on after their session ended; many: compare `earshot session list` with the"
        " transceiver's log",
    ),
    Reason.DROP_SPOOFED_SOURCE: Explained(
        "from the VIP's or a relay's own address",
        "filter your own addresses at the edge (BCP 38)",
    ),
    Reason.DROP_BAD_SOURCE: Explained(
        "a Binding Request from an address that is not unicast, or from port 0",
        "filter such addresses at the edge (BCP 38)",
    ),
    Reason.DROP_NO_BACKEND: Explained(
        "the session has no address in the packet's family",
        "register one, or leave the VIP of that family out of the SDP answer",
    ),
    Reason.DROP_NO_FLOW: Explained(
        "to a VIP, from a client that is not bound: no request yet, or its flow has ended",
        "a few at the start of calls are normal; many: the flow aged out, see `flow_idle_seconds`",
    ),
    Reason.DROP_NO_RELAY_FLOW: Explained(
        "to a relay port that carries no flow",
        "a transceiver that still sends after its flow ended",
    ),
    Reason.DROP_WRONG_BACKEND: Explained(
        "to a relay port, but not from its flow's transceiver",
        "media must leave from the address and port that were registered",
    ),
    Reason.DROP_STALE_FLOW: Explained(
        "to a relay port whose flow has been ended, or whose client belongs to a newer one",
        "normal for a moment after a session ended or a client restarted",
    ),
    Reason.DROP_FLOWS_FULL: Explained(
        "no relay port is free",
        "more relay addresses, or a wider `relay_ports`",
    ),
    Reason.DROP_FREE_LIST: Explained(
        "the ring of free relay ports named one that is in use",
        "none is needed: the ring goes on with the next; please report it",
    ),
    Reason.DROP_HOPS_FULL: Explained(
        "no next hop is free",
        "more than 16,383 neighbours: put a router between them and the relay",
    ),
    Reason.DROP_HOP_UNRESOLVED: Explained(
        "the next hop has no MAC address yet",
        "`ip neigh`: does the gateway, or the transceiver, answer ARP or neighbour discovery?",
    ),
    Reason.DROP_UNROUTABLE: Explained(
        "no route to the client, or by a link that the program is not attached to",
        "`ip route get CLIENT`; add the link to `interfaces`",
    ),
    Reason.DROP_TOO_BIG: Explained(
        "larger than the MTU of the link it must leave by",
        "give both sides' links the same MTU",
    ),
    Reason.ABORTED_BAD_NUMBER: Explained(
        "a map names an entry that does not exist",
        "the maps are damaged: `earshot datapath remove`, then start earshotd; please report it",
    ),
    Reason.DROP_STUN_NO_FINGERPRINT: Explained(
        "a Binding Request whose last attribute is not a FINGERPRINT of 4 bytes",
        "ICE agents send it (RFC 8445, 7.1); for others set `fingerprint_optional` of the session",
    ),
    Reason.DROP_STUN_FINGERPRINT: Explained(
        "FINGERPRINT is wrong",
        "a link that damages packets, or somebody probing",
    ),
    Reason.DROP_STUN_NO_INTEGRITY: Explained(
        "a Binding Request without MESSAGE-INTEGRITY",
        "somebody probing who knows a ufrag",
    ),
    Reason.DROP_STUN_INTEGRITY: Explained(
        "MESSAGE-INTEGRITY was not made with the pwd of the ufrag in USERNAME",
        "few: somebody forging; all of a session's: the pwd registered is not that of the SDP answer",
    ),
    Reason.FORWARD_PROVISIONAL: Explained(
        "a Binding Request for a session without a pwd, by a flow that is not confirmed",
        "register the pwd, and the relay itself turns forgers away",
    ),
    Reason.DROP_PROVISIONAL: Explained(
        "on a flow that is not confirmed: media or DTLS of the transceiver, or a 33rd packet either way",
        "does the transceiver answer the requests that reach it?",
    ),
    Reason.DROP_SOURCE_BUDGET: Explained(
        "more requests without a flow from one IPv4 address or IPv6 /64 than `source_requests_per_second`",
        "a flood; if it is a large NAT of your clients: `source_exempt`, or a higher rate",
    ),
    Reason.DROP_BINDING_BUDGET: Explained(
        "more new flows on one CPU than `bindings_per_second`",
        "a flood by somebody who knows secrets; or a higher rate",
    ),
    Reason.DROP_SESSION_BUDGET: Explained(
        "more new flows of one ufrag than `flows_per_session` within `flow_idle_seconds`",
        "a request that somebody overheard and repeats from other addresses; or a client that changes its"
        " port all the time",
    ),
    Reason.DROP_INDEX_FULL: Explained(
        "a new flow found no slot in the index: 56 others have theirs in the same place",
        "the client asks again, and flows that have just ended have left by then; if it goes on, please "
        "report it",
    ),
    Reason.DROP_BUSY: Explained(
        "other CPUs were binding in the same place all the while",
        "the client asks again; if it goes on: do all requests come from one client?",
    ),
    Reason.DROP_UFRAG_FORGED: Explained(
        "the ufrag reads as a routable one, but was not made with the fleet's key of that number",
        "few: ufrags of others that happen to read so, or somebody probing; many: compare the transceivers'"
        " `--fleet-key` with `fleet_keys`",
    ),
    Reason.DROP_UNKNOWN_OWNER: Explained(
        "a routable ufrag of a transceiver that is not here",
        "few: clients that go on after their transceiver has left; many: `earshot transceiver list`, and the"
        " transceivers' `--fleet-number`",
    ),
    Reason.DROP_LEASE_EXPIRED: Explained(
        "a new flow, while the relay has no lease of its addresses: another of its group may have taken them",
        "neither the directory can be reached nor all others of the group, or the daemon does not run:"
        " `systemctl status earshotd`, and its log; flows that are there go on",
    ),
}


def label(reason: Reason) -> str:
    """As JSON, the metrics and tables have it."""
    return reason.name.lower()


def action(reason: Reason) -> str:
    """What becomes of such a packet: an XDP action, or two where it depends on the link that it leaves by."""
    return ACTIONS[label(reason).partition("_")[0]]


def is_loss(reason: Reason) -> bool:
    """Whether such a packet has not gone on."""
    return label(reason).startswith(("drop", "aborted"))


def plain(text: str) -> str:
    """A text as a terminal shows it."""
    return text.replace("`", "")


def readme_rows() -> list[str]:
    """The rows of bpf/README.md, in the order of the numbers."""
    rows = []
    for reason in Reason:
        meaning, cure = EXPLAINED[reason]
        rows.append(f"| `{label(reason)}` | {action(reason)} | {meaning} | {cure}{' ' if cure else ''}|")
    return rows
