# SPDX-License-Identifier: Apache-2.0
"""How far a packet came, in words: the steps of docs/packet-semantics.md, and which reasons end each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from control.abi import Reason as R


class Step(NamedTuple):
    """A question that the program asks.

    Attributes:
        fact: by which name the answer's details are known (`steps_of`); empty: there are none.
        ends: reasons that say no.
    """

    question: str
    ends: frozenset[R]
    fact: str = ""


class Taken(NamedTuple):
    """A step with its answer."""

    question: str
    passed: bool
    detail: str | None


def _step(question: str, *ends: R, fact: str = "") -> Step:
    return Step(question, frozenset(ends), fact)


_FIRST = (
    _step("is it UDP over IP?", R.PASS_NOT_IP, R.PASS_VLAN, R.PASS_NOT_UDP, fact="endpoints"),
    _step("is it for a VIP or a relay port of this relay?", R.PASS_NOT_OURS, fact="ours"),
    _step(
        "are its headers in order?",
        *(R.DROP_TRUNCATED, R.DROP_BAD_LENGTH, R.DROP_FRAGMENT, R.DROP_IP_OPTIONS, R.DROP_IPV6_EXTENSION),
        *(R.DROP_IPV6_NO_CHECKSUM, R.DROP_TTL, R.DROP_EMPTY),
    ),
    _step(
        "is it STUN, DTLS or RTP?",
        *(R.DROP_NOT_RTC, R.DROP_STUN_SHORT, R.DROP_STUN_LENGTH, R.DROP_STUN_COOKIE),
        fact="class",
    ),
)
_MEDIA = (_step("has its 5-tuple a flow?", R.DROP_NO_FLOW, R.DROP_SPOOFED_SOURCE, fact="flow"),)
_REQUEST_BEGINS = (
    _step("may its source ask?", R.DROP_SPOOFED_SOURCE, R.DROP_BAD_SOURCE),
    _step("has its source requests left?", R.DROP_SOURCE_BUDGET, fact="source_budget"),
    _step(
        "does its USERNAME begin with a ufrag?",
        *(R.DROP_STUN_ATTRIBUTE, R.DROP_STUN_TOO_MANY_ATTRIBUTES, R.DROP_STUN_NO_USERNAME),
        *(R.DROP_STUN_USERNAME_EMPTY, R.DROP_STUN_USERNAME_NO_COLON, R.DROP_STUN_USERNAME_TOO_LONG),
        fact="ufrag",
    ),
    _step("has a session that ufrag?", R.DROP_UNKNOWN_UFRAG, fact="session"),
)
_SPENT = _step("may its session have another flow?", R.DROP_SESSION_BUDGET, fact="session_budget")
_REQUEST_ENDS = (
    _step("is FINGERPRINT right?", R.DROP_STUN_NO_FINGERPRINT, R.DROP_STUN_FINGERPRINT),
    _step("is MESSAGE-INTEGRITY right?", R.DROP_STUN_NO_INTEGRITY, R.DROP_STUN_INTEGRITY, fact="integrity"),
    _step("has its session an address of this family?", R.DROP_NO_BACKEND),
    _step("is there a way back to the client?", R.DROP_UNROUTABLE, R.DROP_HOPS_FULL),
    _step(
        "is there a flow, or can one be made?",
        *(R.DROP_SESSION_BUDGET, R.DROP_BINDING_BUDGET, R.DROP_BUSY, R.DROP_FLOWS_FULL, R.DROP_FREE_LIST),
        *(R.DROP_INDEX_FULL, R.DROP_PROVISIONAL, R.DROP_LEASE_EXPIRED),
        fact="flow",
    ),
)
_BACK = (
    _step(
        "has its relay port a flow?",
        R.DROP_NO_RELAY_FLOW,
        R.DROP_STALE_FLOW,
        R.DROP_SPOOFED_SOURCE,
        fact="flow",
    ),
    _step("does it come from that flow's transceiver?", R.DROP_WRONG_BACKEND, fact="backend"),
    _step("is the flow confirmed, or does this confirm it?", R.DROP_PROVISIONAL, R.DROP_BUSY),
)
_LAST = (
    _step("has the next hop a MAC address?", R.DROP_HOP_UNRESOLVED, fact="hop"),
    _step("is it small enough for the link?", R.DROP_TOO_BIG),
    _step("are the maps whole?", R.ABORTED_BAD_NUMBER),
)


def _path(to_vip: bool, request: bool, had_flow: bool) -> Sequence[Step]:
    if not to_vip:
        return (*_FIRST, *_BACK, *_LAST)
    if not request:
        return (*_FIRST, *_MEDIA, *_LAST)
    # Who has a flow is charged for nothing. A session that has spent its flows is refused unchecked.
    middle = () if had_flow else (_SPENT,)
    begins = (
        _REQUEST_BEGINS
        if not had_flow
        else tuple(step for step in _REQUEST_BEGINS if step.fact != "source_budget")
    )
    return (*_FIRST, *begins, *middle, *_REQUEST_ENDS, *_LAST)


def taken(reason: R, *, to_vip: bool, request: bool, had_flow: bool, facts: Mapping[str, str]) -> list[Taken]:
    """The steps up to the one that said no; all of them if none did."""
    steps: list[Taken] = []
    for step in _path(to_vip, request, had_flow):
        passed = reason not in step.ends
        steps.append(Taken(step.question, passed, facts.get(step.fact)))
        if not passed:
            break
    return steps
