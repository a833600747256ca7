# SPDX-License-Identifier: Apache-2.0
"""What somebody wants to see, and how the program is told so."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from control import abi
from control.addresses import Endpoint, IPAddress, to_bytes

_UFRAG = re.compile(rf"[A-Za-z0-9+/]{{1,{abi.UFRAG_MAX}}}")  # RFC 8839, 5.4; the relay takes no longer ones
_EACH = (1 << 128) - 1


def parse_ufrag(text: str) -> str:
    """A server's ufrag. Raises ValueError."""
    if not _UFRAG.fullmatch(text):
        raise ValueError(f"not a ufrag: 1 to {abi.UFRAG_MAX} of A-Z a-z 0-9 + /")
    return text


def parse_reason(text: str) -> abi.Reason:
    """A reason by its name, in lower case, as `earshot stats --all` has it. Raises ValueError."""
    try:
        return abi.Reason[text.upper()]
    except KeyError:
        raise ValueError(f"no reason {text!r}: earshot stats --all has their names") from None


@dataclass(frozen=True)
class Filter:
    """A packet has to meet all of it.

    Attributes:
        client: of its flow; its port is None for any.
        vip: that the client sends to.
        ufrag: requests for it, and packets of its session's flows.
        reasons: one of these; none: any, but for what is passed to the host.
        drops_only: it was dropped, or aborted.
        sample: one of so many, by chance.
    """

    client: tuple[IPAddress, int | None] | None = None
    vip: Endpoint | None = None
    ufrag: str | None = None
    reasons: frozenset[abi.Reason] = frozenset()
    drops_only: bool = False
    sample: int = 1

    def enter(self, tap: NDArray[np.void]) -> None:
        """Fills a TAP with all of it but the numbers of VIP and session, which are the datapath's."""
        match = 0
        if self.client is not None:
            match |= abi.TapMatch.CLIENT
            tap["client"] = np.void(to_bytes(self.client[0]))
            tap["client_port"] = self.client[1] or 0
        if self.vip is not None:
            match |= abi.TapMatch.VIP
        if self.ufrag is not None:
            match |= abi.TapMatch.UFRAG
            tap["ufrag"]["ufrag"] = self.ufrag.encode()
        wanted = self._wanted_reasons()
        tap["reasons"] = [wanted & (1 << 64) - 1, wanted >> 64]
        tap["match"], tap["sample"] = match, self.sample

    def _wanted_reasons(self) -> int:
        """A bit each. Those that only a later program has are wanted with the others."""
        wanted = _bits(self.reasons) if self.reasons else _EACH & ~_bits(_named("PASS"))
        return wanted & ~_bits(_named("PASS", "FORWARD")) if self.drops_only else wanted


def _named(*prefixes: str) -> Iterable[abi.Reason]:
    return (reason for reason in abi.Reason if reason.name.startswith(prefixes))


def _bits(reasons: Iterable[abi.Reason]) -> int:
    return sum(1 << reason for reason in reasons)
