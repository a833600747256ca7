# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with the directory, and what is counted of it."""

from __future__ import annotations

import logging
from collections import Counter
from enum import StrEnum

from control.errors import EarshotError
from control.logs import event

_log = logging.getLogger(__name__)


class Refusal(StrEnum):
    """Why something that was found in the directory is not believed."""

    MALFORMED = "malformed"  # it is not of this format at all, or its message does not parse
    VERSION = "version"  # of another version of the format
    KEY = "key"  # sealed with a fleet key that this relay does not have
    FORGED = "forged"  # by its seal: changed, moved from another place, or of another fleet
    REPLAYED = "replayed"  # said before
    DIFFERS = "differs"  # a transceiver's state is not the one that its relay has written


class DirectoryError(EarshotError):
    """Root of what the directory raises."""


class AwayError(DirectoryError):
    """Redis does not answer, or not as it should. What is known goes on; to be tried again."""


class SealError(DirectoryError):
    """Something in Redis cannot be believed."""

    def __init__(self, why: Refusal, message: str) -> None:
        super().__init__(message)
        self.why = why


class Refusals:
    """Counts what was refused, and says so in the log.

    Attributes:
        counts: by why.
    """

    def __init__(self) -> None:
        self.counts = Counter[Refusal]()

    def add(self, why: Refusal, where: str, message: object) -> None:
        """Something in Redis under `where` was refused. Nothing else comes of it."""
        self.counts[why] += 1
        event(_log, logging.WARNING, "directory_refused", why=why.value, where=where, message=message)
