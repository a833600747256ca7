# SPDX-License-Identifier: Apache-2.0
"""A host whose routes lead to clients: binding looks the way up in the kernel's FIB."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bench.tables import UFRAG
from control import hostlinks
from control.hostlinks import HostLink
from tests.bpf import stun
from tests.lab.netns import Lab

_PWD = b"a-password-of-22-bytes"
# As browsers send it: 104 bytes, the username first.
REQUEST = stun.request(
    UFRAG + b":peer", b"a-password-of-22-bytes", after=[(0xC057, bytes(4)), (stun.USE_CANDIDATE, b"")]
)

_LINK = "clients"
_GATEWAY, _GATEWAY_MAC = "198.51.100.254", "02:00:00:00:00:c2"


@contextmanager
def host() -> Iterator[HostLink]:
    """The calling thread is in such a host meanwhile. Yields the link that clients are behind."""
    with Lab() as lab:
        relay, far = lab.host("relay", is_relay=True), lab.host("far")
        lab.link(relay, far, ["198.51.100.1/24"], name_a=_LINK)
        relay.ip(
            f"neighbour add {_GATEWAY} lladdr {_GATEWAY_MAC} dev {_LINK} nud permanent",
            f"route add default via {_GATEWAY}",
        )
        with relay.inside():
            hostlinks.let_lo_forward()
            yield hostlinks.find([_LINK])[0]
