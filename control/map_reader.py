# SPDX-License-Identifier: Apache-2.0
"""Entries of any map, some thousands at a time: a million take no more memory than a thousand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from control import libbpf
from control.libbpf import Array
from control.map_types import HIDDEN, MAP_TYPES, MapType
from control.maps import MappedArray

# enum bpf_map_type
HASH, ARRAY, PERCPU_HASH, PERCPU_ARRAY, LRU_HASH, LPM_TRIE, QUEUE = 1, 2, 5, 6, 9, 11, 22
_MMAPABLE = 1 << 10  # of map_flags
_CHUNK = 4096


class MapReader:
    """One pinned map, with types where this version knows the map.

    Attributes:
        info: the map, as the kernel tells.
        is_shown: whether this version has types for it, and none of it is secret. Else values are mere bytes.
        is_per_cpu: whether an entry has a value for each CPU.
        is_numbered: whether keys are numbers from 0 on.
        key, value: dtypes.
    """

    def __init__(self, pin: Path) -> None:
        """Raises OSError: there is no such pin, or it may not be opened."""
        self._fd = libbpf.get_pinned(pin)
        self.info = libbpf.map_info(self._fd)
        self.is_per_cpu = self.info.type in (PERCPU_ARRAY, PERCPU_HASH)
        self.is_numbered = self.info.type in (ARRAY, PERCPU_ARRAY)
        known = MAP_TYPES.get(pin.name)
        if known is not None and not self._fits(known):
            known = None
        self.is_known = known is not None
        self.is_shown = known is not None and known.value is not HIDDEN
        self.key = np.dtype("=u4") if self.is_numbered else _sized(known and known.key, self.info.key_size)
        self.value = _sized(known and known.value if self.is_shown else None, self.info.value_size)
        self._bytes = np.dtype(f"V{self.info.value_size}")
        self._cpus = libbpf.possible_cpus() if self.is_per_cpu else 1
        self._stride = -(-self.info.value_size // 8) * 8 if self.is_per_cpu else self.info.value_size

    def __enter__(self) -> MapReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def get(self, key: Array) -> Array | None:
        """The value of one entry, an array of one, or of one for each CPU; None: there is no such entry.

        `key`: an array of one, of dtype self.key. Of an LPM trie, the longest prefix that covers it counts.
        """
        raw = libbpf.lookup(self._fd, key.tobytes(), self._stride * self._cpus)
        return None if raw is None else self._values(raw).view(self.value)

    def entries(self) -> Iterator[tuple[Array, Array]]:
        """Keys, and a row of values for each: one, or one for each CPU.

        A queue has the first of its entries alone: who wants another one takes that off.
        """
        if self.info.type == QUEUE:
            first = libbpf.queue_peek(self._fd)
            if first is not None:
                yield np.zeros(1, "=u4"), np.array([[first]], self.value)
        elif self.info.type == ARRAY and self.info.flags & _MMAPABLE:
            yield from self._mapped()
        elif self.is_numbered:
            row = np.dtype((np.uint8, (self._cpus, self._stride)))
            for keys, rows in libbpf.iterate_batches(self._fd, self.key, row):
                values = np.ascontiguousarray(rows[:, :, : self.info.value_size])
                yield keys, values.view(self.value)[:, :, 0]
        elif self.info.type in (HASH, LRU_HASH):
            for keys, values in libbpf.iterate_batches(self._fd, self.key, self.value):
                yield keys, values.reshape(-1, 1)
        elif self.info.type in (LPM_TRIE, PERCPU_HASH):
            raw = b"".join(libbpf.iterate_keys(self._fd, self.info.key_size))
            yield self._looked_up(np.frombuffer(raw, self.key))

    def _mapped(self) -> Iterator[tuple[Array, Array]]:
        # As bytes: numpy copies fields alone, and leaves what is between them as it happens to be.
        mapping = MappedArray(self._fd, self._bytes, writable=False)
        for start in range(0, mapping.entries, _CHUNK):
            values = mapping.array[start : start + _CHUNK].copy()
            yield (
                np.arange(start, start + len(values), dtype=np.uint32),
                values.view(self.value).reshape(-1, 1),
            )
        mapping.close()

    def _looked_up(self, keys: Array) -> tuple[Array, Array]:
        """These entries, without those that have gone meanwhile."""
        size = self._stride * self._cpus
        read = [libbpf.lookup(self._fd, key.tobytes(), size) for key in keys]
        values = [self._values(raw) for raw in read if raw is not None]
        rows = np.stack(values) if values else np.empty((0, self._cpus), self._bytes)
        return keys[[raw is not None for raw in read]], rows.view(self.value)

    def _values(self, raw: bytes) -> Array:
        """One for each CPU, as bytes."""
        rows = np.frombuffer(raw, np.uint8).reshape(self._cpus, self._stride)[:, : self.info.value_size]
        return np.ascontiguousarray(rows).view(self._bytes).ravel()

    def _fits(self, known: MapType) -> bool:
        pairs = [(known.key, self.info.key_size), (known.value, self.info.value_size)]
        return all(
            dtype is None or dtype is HIDDEN or np.dtype(dtype).itemsize == size for dtype, size in pairs
        )


def _sized(dtype: Any, size: int) -> np.dtype[Any]:
    """A dtype, or bytes of that size."""
    return np.dtype(f"V{size}") if dtype is None else np.dtype(dtype)
