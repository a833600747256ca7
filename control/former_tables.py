# SPDX-License-Identifier: Apache-2.0
"""A flow table that another one is filled from: how it numbers records, and how its free ones are taken.

Until links have the new program, the old one goes on with the old table. It may bind no flow there that
would not be carried over any more, so its free numbers are taken from it before the last look: new calls
are refused meanwhile, some hundredths of a second, and their clients ask again. What is there goes on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from control import abi, free_lists, libbpf
from control.layout import Layout
from control.libbpf import Array
from control.maps import ArrayMap, DType, MappedArray, Queue

Numbers = NDArray[np.uint32]

# A program that had taken a number just before is through with its packet by then.
_SETTLE_SECONDS = 0.01


class FormerTable(Protocol):
    """A flow table that is there.

    Attributes:
        ports: its range, both ends included.
        relays: how many relay addresses it has records for.
    """

    ports: tuple[int, int]
    relays: int

    @property
    def records(self) -> Array:
        """As many for each relay address, one address after the other."""
        ...

    def numbers_in(self, layout: Layout) -> Numbers:
        """By record: its number in a table of that layout, of the same ports, and no fewer addresses."""
        ...

    def take_free(self) -> None:
        """No new flow is bound in it from now on.

        Raises:
            DatapathError: the program took numbers faster than they could be taken from it.
        """
        ...

    def give_free(self) -> None:
        """Undoes take_free."""
        ...

    def close(self) -> None: ...


@contextmanager
def _opened(pin_path: Path, names: Iterable[str]) -> Iterator[list[int]]:
    """Descriptors of pinned maps, for as long as the block is."""
    with ExitStack() as stack:
        fds = []
        for name in names:
            fds.append(libbpf.get_pinned(pin_path / name))
            stack.callback(os.close, fds[-1])
        yield fds


class RingTable:
    """Of today's numbering, with rings of free numbers."""

    def __init__(self, pin_path: Path, flows: str, value: DType) -> None:
        """
        Raises:
            FileNotFoundError: there is none, or not all of it.
        """
        with _opened(pin_path, (flows, "free_lists_v1", "layout_v1")) as fds:
            self._flows = MappedArray(fds[0], value, writable=False)
            self._rings = MappedArray(fds[1], abi.FREE_LIST)
            self.layout = Layout.of_record(ArrayMap(fds[2], abi.LAYOUT).get(0))
        self.ports = (self.layout.port_min, self.layout.port_max) if self.layout else (0, 0)
        self.relays = self.layout.relays if self.layout else 0
        self._tails: Numbers | None = None

    @property
    def records(self) -> Array:
        return self._flows.array

    def numbers_in(self, layout: Layout) -> Numbers:
        return np.arange(len(self.records), dtype=np.uint32)

    def take_free(self) -> None:
        if self._tails is None:
            self._tails = self._rings.array["tail"].copy()
        free_lists.take_all(self._rings.array)

    def give_free(self) -> None:
        if self._tails is not None:
            self._rings.array["tail"] = self._tails

    def close(self) -> None:
        self._flows.close()
        self._rings.close()


# What of struct locals told the layout, before there was layout_v1.
_LOCALS_V1 = np.dtype(
    {
        "names": ["port_bits", "port_min", "port_max"],
        "formats": ["=u4", "=u2", "=u2"],
        "offsets": [4, 8, 10],
        "itemsize": 16 + 24 * abi.LOCAL_SLOTS,
    }
)


class ShiftTable:
    """Of the first numbering, relay address's index << port_bits | port - first port; free ones in queues."""

    def __init__(self, pin_path: Path, flows: str, value: DType) -> None:
        """
        Raises:
            FileNotFoundError: there is none, or not all of it.
        """
        with _opened(pin_path, (flows, "locals_v1", "free_flows4_v1", "free_flows6_v1")) as fds:
            self._flows = MappedArray(fds[0], value, writable=False)
            locals_ = ArrayMap(fds[1], _LOCALS_V1).get(0)[0]
            self._queues = [Queue(os.dup(fd)) for fd in fds[2:]]
        self.ports = (int(locals_["port_min"]), int(locals_["port_max"]))
        self._port_bits = int(locals_["port_bits"])
        self.relays = len(self.records) >> self._port_bits
        self._taken: list[list[int]] = [[] for _ in self._queues]

    @property
    def records(self) -> Array:
        return self._flows.array

    def numbers_in(self, layout: Layout) -> Numbers:
        """Numbers without a port, which were never in use, get those of others."""
        number = np.arange(len(self.records), dtype=np.uint32)
        relay = number >> np.uint32(self._port_bits)
        port = number & np.uint32((1 << self._port_bits) - 1)
        numbers: Numbers = relay * np.uint32(layout.span) + np.minimum(port, np.uint32(layout.span - 1))
        return numbers

    def take_free(self) -> None:
        for queue, taken in zip(self._queues, self._taken, strict=True):
            while (number := queue.pop()) is not None:
                taken.append(number)
        time.sleep(_SETTLE_SECONDS)

    def give_free(self) -> None:
        for queue, taken in zip(self._queues, self._taken, strict=True):
            while taken:
                queue.push(taken.pop())

    def close(self) -> None:
        self._flows.close()
        for queue in self._queues:
            os.close(queue.fd)
