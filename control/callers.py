# SPDX-License-Identifier: Apache-2.0
"""Who is at the other end of a gRPC call, as far as that is proven (docs/adr/0007)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from control.access import LOOPBACK, Caller, san_identity
from control.requests import Code, RequestError


def caller_of(context: Any, local_peers: Mapping[str, int]) -> Caller:
    """The caller of a grpc.aio servicer context.

    Args:
        local_peers: the uid behind each connection that control/front.py has handed on.

    Raises:
        RequestError: UNAUTHENTICATED; a connection that nobody vouches for.
    """
    peer: str = context.peer()
    uid = local_peers.get(peer)
    if uid is not None:
        return Caller((f"uid:{uid}",), is_local=True)
    transport = peer.partition(":")[0]
    if transport not in ("ipv4", "ipv6"):
        raise RequestError(Code.UNAUTHENTICATED, "the connection did not come by the relay's socket")
    properties = context.auth_context()
    if list(properties.get("transport_security_type", ())) != [b"ssl"]:
        # The configuration lets such a port be opened on a loopback address alone.
        return Caller((LOOPBACK,), is_local=False)
    # A URI without a colon is none; taken for a DNS name it would say what nobody has checked.
    uris = [raw for raw in properties.get("peer_uri", ()) if b":" in raw]
    dns = [raw for raw in properties.get("peer_dns", ()) if b":" not in raw]
    names = sorted({san_identity(raw.decode("utf-8", "replace")) for raw in (*dns, *uris)})
    return Caller(tuple(names), is_local=False)
