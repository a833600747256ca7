# SPDX-License-Identifier: Apache-2.0
"""All checks, in their order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from control.check import addresses, host, interfaces, links
from control.check.finding import Finding, Status, failed, ok
from control.check.interfaces import Attach
from control.config import Config
from control.errors import ConfigError


def run(config: Config | None, pin_path: Path, *, attach: bool) -> Iterator[Finding]:
    """All checks; those of links and addresses need a configuration.

    Args:
        attach: whether a program may be attached for a moment.
    """
    loadable = False
    for finding in host.findings(pin_path):
        loadable |= finding.name == host.PROGRAM and finding.status == Status.OK
        yield finding
    if config is None:
        return
    with ExitStack() as loaded:
        # Where the program cannot be loaded, which was said above, it cannot be attached.
        trial = _attach_trial(config.xdp_mode, loaded) if attach and loadable else None
        ours = _attached(pin_path) if loadable else None
        yield from interfaces.findings(config, links.read(), ours, trial)
    yield from addresses.findings(config, links.addresses())
    if loadable:
        yield _memory(config)


def _memory(config: Config) -> Finding:
    """Whether there is room for maps of the configured sizes."""
    from control import loader, memory  # as above
    from control.units import in_bytes

    need, there = loader.memory_need(config), memory.available()
    try:
        need.check(there)
    except ConfigError as error:
        return failed(
            "memory", str(error), "take fewer sessions, relay ports or relay addresses, or add memory"
        )
    return ok("memory", f"{in_bytes(need.bytes)} at most; there are {in_bytes(there.bytes)} ({there.source})")


def _attach_trial(mode: str, loaded: ExitStack) -> Attach:
    """Attaches the real program, which knows no address and so passes every packet, and detaches it."""
    from control import libbpf, loader, pinned  # not before it is known that they can be imported

    program = loaded.enter_context(libbpf.BpfObject(pinned.object_path()))
    program.load()
    fd = program.program_fd(loader.PROGRAM)
    flags = libbpf.XDP_FLAGS_SKB_MODE if mode == "generic" else libbpf.XDP_FLAGS_DRV_MODE

    def attach(ifindex: int) -> None:
        os.close(libbpf.create_xdp_link(fd, ifindex, flags))

    return attach


def _attached(pin_path: Path) -> dict[int, int] | None:
    """The program that is attached by the pins of a datapath, by ifindex; None: they may not be read."""
    from control import pinned  # as above

    try:
        os.scandir(pin_path).close()
    except FileNotFoundError:
        return {}
    except PermissionError:
        return None
    return {link.ifindex: link.program_id for link in pinned.attached(pin_path)}
