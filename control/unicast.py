# SPDX-License-Identifier: Apache-2.0
"""Which addresses can name a host on the other end of a wire."""

from __future__ import annotations

from control.addresses import IPAddress


def unicast_fault(address: IPAddress) -> str:
    """Why packets cannot be sent to this address by a relay; empty if they can (RFC 6890)."""
    if address.version == 6:
        if address.ipv4_mapped is not None:
            return f"{address} is an IPv4-mapped address; write it as {address.ipv4_mapped}"
        if address.scope_id is not None or address.is_link_local:
            return f"{address} is link-local, which means nothing beyond one link"
    elif address.is_reserved or address.packed[0] == 0:
        return f"{address} is not a unicast address"
    if address.is_multicast or address.is_unspecified:
        return f"{address} is not a unicast address"
    if address.is_loopback:
        return f"{address} is a loopback address"
    return ""
