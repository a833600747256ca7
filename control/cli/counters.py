# SPDX-License-Identifier: Apache-2.0
"""Packets and bytes by reason, of whatever version the maps are.

Reasons are only ever added, so the counters of another version are read as far as this one knows their names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from control.abi import REASON_COUNTER, Reason
from control.cli.pins import names
from control.errors import DatapathError

Counters = dict[Reason, tuple[int, int]]  # packets and bytes
_MAP = "reasons_v1"


class Reading:
    """The counters of the maps that are pinned in one place."""

    def __init__(self, fd: int) -> None:
        from control.maps import PerCpuArray  # as in pinned_maps()

        self._map = PerCpuArray(fd, REASON_COUNTER)

    def read(self) -> Counters:
        """All reasons that this version knows; those that the maps do not have are 0."""
        records = self._map.read()
        counts = zip(records["packets"].tolist(), records["bytes"].tolist(), strict=True)
        return dict.fromkeys(Reason, (0, 0)) | dict(zip(Reason, counts, strict=False))


@contextmanager
def reading(pin_path: Path) -> Iterator[Reading]:
    """
    Raises:
        DatapathError: nothing is pinned there, or no counters are.
    """
    from control import libbpf

    if _MAP not in names(pin_path):
        raise DatapathError(f"the maps pinned in {pin_path} are of another version: {_MAP} is missing")
    fd = libbpf.get_pinned(pin_path / _MAP)
    try:
        yield Reading(fd)
    finally:
        os.close(fd)
