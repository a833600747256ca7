# SPDX-License-Identifier: Apache-2.0
"""What a region may be called: by relays, by transceivers, and where ingresses are listed."""

from __future__ import annotations

import re

_REGION = re.compile(r"[A-Za-z0-9._-]{1,32}", re.ASCII)
FORM = "1 to 32 of A-Za-z0-9._-"


def is_region(text: str) -> bool:
    """Whether a region may have that name."""
    return _REGION.fullmatch(text) is not None
