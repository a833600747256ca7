# SPDX-License-Identifier: Apache-2.0
"""What became of attempts at something that an operator asks for, for the metrics."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from control.errors import ConfigError

RESULTS = ("ok", "refused", "failed")


class Attempts:
    """Counts them by result.

    Attributes:
        results: how many, by the words of `RESULTS`.
        last_ok: whether the last one succeeded; true as long as there was none.
        succeeded_at: when the last one that did was over, in seconds of the epoch; at first, of the start.
    """

    def __init__(self) -> None:
        self.results = Counter[str]()
        self.last_ok = True
        self.succeeded_at = time.time()

    @contextmanager
    def counted(self) -> Iterator[None]:
        """The block is one attempt. Whatever it raises goes on."""
        try:
            yield
        except ConfigError:
            self._note("refused")
            raise
        except Exception:
            self._note("failed")
            raise
        self._note("ok")
        self.succeeded_at = time.time()

    def _note(self, result: str) -> None:
        self.results[result] += 1
        self.last_ok = result == "ok"
