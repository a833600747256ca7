# SPDX-License-Identifier: Apache-2.0
"""The networks of emulated machines: bridges in a network namespace, in which nothing else is.

A machine's link is a tap on its network's bridge. Who runs in the namespace can have a link as well: `visit`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from tests.lab.host import run


@contextlib.contextmanager
def networks(names: Sequence[str]) -> Iterator[None]:
    """So many of them, each named as its bridge; they end with the block. Raises `LabError`."""
    with contextlib.ExitStack() as stack:
        for name in names:
            run(["ip", "link", "add", name, "up", "type", "bridge"])
            stack.callback(run, ["ip", "link", "del", name])
        yield


def plug(network: str, tap: str) -> None:
    """A tap of that name, on that network, for an emulated network card; it ends with the namespace."""
    run(["ip", "tuntap", "add", "dev", tap, "mode", "tap"])
    run(["ip", "link", "set", tap, "up", "master", network])


@contextlib.contextmanager
def visit(network: str, address: str) -> Iterator[None]:
    """The namespace itself has that address (a /24 of IPv4) on that network while the block runs."""
    run(["ip", "addr", "add", f"{address}/24", "dev", network])
    try:
        yield
    finally:
        run(["ip", "addr", "del", f"{address}/24", "dev", network])
