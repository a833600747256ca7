# SPDX-License-Identifier: Apache-2.0
"""Maps with types: file descriptor, numpy dtypes, and the few calls that each kind needs."""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from control import libbpf
from control.libbpf import Array

DType = np.dtype[np.void]


class HashMap:
    """A hash map of records by records."""

    def __init__(self, fd: int, key: npt.DTypeLike, value: npt.DTypeLike) -> None:
        self.fd = fd
        self.key: np.dtype[np.generic] = np.dtype(key)
        self.value: np.dtype[np.generic] = np.dtype(value)

    @property
    def capacity(self) -> int:
        """Entries that fit."""
        return libbpf.map_info(self.fd).max_entries

    def get(self, key: bytes) -> bytes | None:
        return libbpf.lookup(self.fd, key, self.value.itemsize)

    def put(self, key: bytes, value: bytes, flags: int = libbpf.BPF_ANY) -> None:
        libbpf.update(self.fd, key, value, flags)

    def delete(self, key: bytes) -> bool:
        return libbpf.delete(self.fd, key)

    def put_many(self, keys: Array, values: Array) -> int:
        """How many were stored, in order; fewer than given when the map is full."""
        return libbpf.update_batch(self.fd, keys, values) if len(keys) else 0

    def delete_many(self, keys: Array) -> int:
        return libbpf.delete_batch(self.fd, keys) if len(keys) else 0

    def keys(self) -> set[bytes]:
        """All keys, one call each: for small maps, and for those that know no batches."""
        return set(libbpf.iterate_keys(self.fd, self.key.itemsize))

    def read(self) -> tuple[Array, Array]:
        return libbpf.read_hash(self.fd, self.key, self.value)

    def batches(self) -> Iterator[tuple[Array, Array]]:
        """The same, some thousands at a time."""
        return libbpf.iterate_batches(self.fd, self.key, self.value)


class ArrayMap:
    """An array of records, entry by entry."""

    def __init__(self, fd: int, value: DType) -> None:
        self.fd = fd
        self.value = value
        self.entries = libbpf.map_info(fd).max_entries

    def get(self, index: int) -> Array:
        """The record, as an array of one."""
        raw = libbpf.lookup(self.fd, _index(index), self.value.itemsize)
        return np.frombuffer(raw or bytes(self.value.itemsize), self.value)

    def put(self, index: int, record: Array) -> None:
        libbpf.update(self.fd, _index(index), record.tobytes())

    def read(self) -> Array:
        return np.concatenate([self.get(index) for index in range(self.entries)], dtype=self.value)


class PerCpuArray:
    """An array of records of 64-bit counters, one per CPU."""

    def __init__(self, fd: int, value: DType) -> None:
        self.fd = fd
        self.value = value
        self.entries = libbpf.map_info(fd).max_entries
        self._cpus = libbpf.possible_cpus()

    def read(self) -> Array:
        """All entries, summed over CPUs."""
        size = self.value.itemsize * self._cpus
        raw = b"".join(
            libbpf.lookup(self.fd, _index(index), size) or bytes(size) for index in range(self.entries)
        )
        counters = np.frombuffer(raw, np.uint64).reshape(self.entries, self._cpus, -1)
        total: Array = counters.sum(axis=1).view(self.value).ravel()
        return total


class Queue:
    """A queue of numbers."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def pop(self) -> int | None:
        return libbpf.queue_pop(self.fd)

    def push(self, number: int) -> None:
        libbpf.queue_push(self.fd, number)


class MappedArray:
    """An array whose memory is mapped: reads and writes are the kernel's own words."""

    def __init__(self, fd: int, value: DType, *, writable: bool = True) -> None:
        self.entries = libbpf.map_info(fd).max_entries
        size = self.entries * value.itemsize
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        pages = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        self._memory = mmap.mmap(fd, pages, flags=mmap.MAP_SHARED, prot=protection)
        self.array: Array = np.frombuffer(self._memory, value, self.entries)

    def close(self) -> None:
        """Unmaps, unless somebody still holds a view of the array."""
        del self.array
        try:
            self._memory.close()
        except BufferError:
            return  # a view is alive: the mapping goes with it


def close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _index(index: int) -> bytes:
    return index.to_bytes(4, sys.byteorder)
