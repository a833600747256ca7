# SPDX-License-Identifier: Apache-2.0
"""What is pinned, for who only looks: without netlink, whose library is slow to load."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

from control import libbpf
from control.datapath import Datapath
from control.errors import DatapathError, OtherVersionError
from control.libbpf import BpfObject

LINK_PIN = "link_"  # and the link's ifindex
_STILL_READ = (
    "of them can be read: earshot map, drops, datapath status, and of former layouts flow list, session list "
    "and show, transceiver list and vip list; earshotd carries calls over when it starts"
)


def object_path() -> Path:
    """The compiled program, as the package carries it."""
    path = Path(str(resources.files("control") / "relay.bpf.o"))
    if not path.exists():
        raise DatapathError(f"{path} is missing: run scripts/build")
    return path


def open_pinned(pin_path: Path) -> Datapath:
    """The maps of a program that runs, or ran, for who only looks.

    Raises:
        DatapathError: there are none, or they may not be read.
        OtherVersionError: they are of another version.
    """
    with BpfObject(object_path()) as program:
        names = list(program.map_names())
    found: dict[str, int] = {}
    try:
        for name in names:
            found[name] = libbpf.get_pinned(pin_path / name)
    except FileNotFoundError as error:
        for fd in found.values():
            os.close(fd)
        if not pin_path.exists() or not any(pin_path.iterdir()):
            raise DatapathError(
                f"no maps are pinned in {pin_path}: has earshotd run, with this pin_path?"
            ) from error
        raise OtherVersionError(
            f"the maps pinned in {pin_path} are of another version: {name} is missing; {_STILL_READ}"
        ) from error
    except OSError as error:
        raise DatapathError(explain(error)) from error
    return Datapath(found, writable=False)


def attached(pin_path: Path) -> list[libbpf.LinkInfo]:
    """The links that are pinned, as the kernel tells of them."""
    found = []
    for pin in sorted(pin_path.glob(f"{LINK_PIN}*")):
        try:
            fd = libbpf.get_pinned(pin)
        except FileNotFoundError:  # unpinned since
            continue
        found.append(libbpf.link_info(fd))
        os.close(fd)
    return found


def explain(error: OSError) -> str:
    """What an errno of bpf(2) means to people."""
    if error.errno in (1, 13) and os.geteuid() != 0:  # EPERM, EACCES; root's is the verifier's
        return f"{error.strerror}: needs root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
    return str(error.strerror)
