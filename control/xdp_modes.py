# SPDX-License-Identifier: Apache-2.0
"""What there is to say of the program's modes; needs no library of BPF."""

from __future__ import annotations

import errno

COST = "takes some three times the CPU for a packet (docs/hosts.md)"
ANEW = "when no calls are there: stop earshotd, earshot datapath remove, start it"

# What is no driver's word on native mode: privileges, another program, a link that has gone.
_OTHERS = frozenset({errno.EPERM, errno.EACCES, errno.EBUSY, errno.EEXIST, errno.ENODEV})


def detach(interface: str) -> str:
    """What to do where another program is attached."""
    return (
        f"detach it (ip link set dev {interface} xdp off; if that is busy, by whatever has attached it: "
        "another earshotd's by earshot datapath remove, with its --pin-path), or use another link"
    )


def is_by_driver(error: OSError) -> bool:
    """Whether it may be the mode that a link does not take."""
    return error.errno not in _OTHERS
