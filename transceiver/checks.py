# SPDX-License-Identifier: Apache-2.0
"""STUN as an ICE-lite agent speaks it: requests judged and answered (RFC 8489, RFC 8445). No I/O."""

from __future__ import annotations

import secrets
from typing import Any

from aioice import stun
from aioice.candidate import candidate_priority

from transceiver.media import Address

BAD_REQUEST = (400, "Bad Request")
UNAUTHENTICATED = (401, "Unauthenticated")
ROLE_CONFLICT = (487, "Role Conflict")


def ufrag_of(request: Any) -> str:
    """The receiver's ufrag (RFC 8445, 7.2.2); empty if there is no USERNAME."""
    ufrag: str = request.attributes.get("USERNAME", "").partition(":")[0]
    return ufrag


def fault(request: Any, pwd: str) -> tuple[int, str] | None:
    """What is wrong with a request that names a session of this pwd, if anything.

    Of USERNAME only our half counts: after an ICE restart clients are known to send the old half of ours
    with the new half of their own. A lite agent is always controlled (RFC 8445, 6.1.1), so a client that
    believes to be so too is told to switch.
    """
    if request.message_method is not stun.Method.BINDING or "MESSAGE-INTEGRITY" not in request.attributes:
        return BAD_REQUEST
    if not request.check_message_integrity(pwd.encode()):
        return UNAUTHENTICATED
    return ROLE_CONFLICT if "ICE-CONTROLLED" in request.attributes else None


def nominates(request: Any) -> bool:
    """Whether the client says that this is the path to use."""
    return "USE-CANDIDATE" in request.attributes


def question(theirs: str, ours: str, pwd: str) -> bytes:
    """A check of the path in use (RFC 7675, 5.1), by both ufrags and the client's pwd; it nominates none."""
    request = stun.Message(
        stun.Method.BINDING,
        stun.Class.REQUEST,
        attributes={
            "USERNAME": f"{theirs}:{ours}",
            "PRIORITY": candidate_priority(1, "prflx"),
            "ICE-CONTROLLED": secrets.randbits(64),
        },
    )
    request.add_message_integrity(pwd.encode())
    return bytes(request)


def success(request: Any, source: Address, pwd: str) -> bytes:
    """The answer to a good request."""
    response = stun.Message(
        stun.Method.BINDING,
        stun.Class.RESPONSE,
        transaction_id=request.transaction_id,
        attributes={"XOR-MAPPED-ADDRESS": source},
    )
    response.add_message_integrity(pwd.encode())
    return bytes(response)


def refusal(request: Any, error: tuple[int, str], pwd: str) -> bytes:
    """The answer to a bad one; signed if the request was authentic (RFC 8489, 9.1.3)."""
    response = stun.Message(
        request.message_method,
        stun.Class.ERROR,
        transaction_id=request.transaction_id,
        attributes={"ERROR-CODE": error},
    )
    if error is ROLE_CONFLICT:
        response.add_message_integrity(pwd.encode())
    else:
        response.add_fingerprint()
    return bytes(response)
