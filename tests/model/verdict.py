# SPDX-License-Identifier: Apache-2.0
"""How the way of a packet ends."""

from __future__ import annotations


class Decided(Exception):
    """Raised by the first rule that applies; the reason is named as in the text."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
