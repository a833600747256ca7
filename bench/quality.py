# SPDX-License-Identifier: Apache-2.0
"""Rows about what it costs to measure the quality of flows: the same packets with and without.

All of it is RTP without a loss, of flows that come in an order far from that of their records. `mixed` is
both ways in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

from bench.driver import Stream
from bench.measure import Effort, Row, measure_both
from bench.tables import Shape, Table
from control.abi import Reason

_UP, _DOWN = Reason.FORWARD_TO_TRANSCEIVER, Reason.FORWARD_TO_CLIENT
_PATHS = {"up": (256, (_UP,)), "down": (0, (_DOWN,)), "mixed": (128, (_UP, _DOWN))}
WITH, WITHOUT = "measured", "unmeasured"
NAMES = tuple(f"media/{way}/{kind}" for way in _PATHS for kind in (WITHOUT, WITH))


def rows(shapes: Sequence[Shape], wanted: Callable[[str], bool], effort: Effort) -> Iterator[Row]:
    """shapes: of the tables."""
    ways = [way for way in _PATHS if wanted(f"media/{way}/{WITH}") or wanted(f"media/{way}/{WITHOUT}")]
    for shape in shapes if ways else ():
        with closing(Table(shape)) as without, closing(Table(shape, quality=True)) as measured:
            tables = {WITHOUT: without, WITH: measured}
            for table in tables.values():
                table.fill()
            for way in ways:
                up, reasons = _PATHS[way]
                yield from measure_both(f"media/{way}", tables, Stream(up=up, rounds=True), reasons, effort)
