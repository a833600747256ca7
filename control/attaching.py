# SPDX-License-Identifier: Apache-2.0
"""Puts the program on links, and decides in which mode.

It has the same mode on all of them. What native XDP forwards to a link whose driver does not take it
(ndo_xdp_xmit: a VLAN, a bridge, an old NIC) is lost in the kernel, and counted by nobody; from a link in
generic mode, any link takes it. And a mode lasts as long as a link has the program: to change it, the program
has to go, and calls with it.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from control import libbpf
from control.errors import DatapathError
from control.hostlinks import HostLink
from control.logs import event
from control.pinned import LINK_PIN
from control.xdp_modes import ANEW, COST, detach, is_by_driver

_FLAGS = {"native": libbpf.XDP_FLAGS_DRV_MODE, "generic": libbpf.XDP_FLAGS_SKB_MODE}
_log = logging.getLogger(__name__)


class _RefusedError(Exception):
    """A link does not take the program."""

    def __init__(self, link: HostLink, error: OSError) -> None:
        super().__init__(link.name)
        self.link = link
        self.error = error
        self.why = str(error.strerror)


def put(program_fd: int, links: Sequence[HostLink], pin_path: Path, wanted: str, undo: ExitStack) -> str:
    """Attaches the program where it is not, and puts it in place of the one that is attached elsewhere.

    Returns the mode that it has, native or generic.

    Args:
        wanted: auto, native or generic; links that have a program of ours already keep its mode, and new ones
            get the same.
        undo: gets what takes new links' programs off again.

    Raises:
        DatapathError: a link does not take it; then nothing has changed.
    """
    held = [link for link in links if _is_held(link, pin_path)]
    new = [link for link in links if link not in held]
    running = next((link.xdp_mode for link in held), "")
    if running:
        _say_what_stays(running, wanted)
    mode, made = _attach(program_fd, new, running, wanted)
    for link, fd in made:
        path = pin_path / f"{LINK_PIN}{link.ifindex}"
        libbpf.pin(fd, path)
        os.close(fd)
        undo.callback(path.unlink)
    for link in held:
        fd = libbpf.get_pinned(pin_path / f"{LINK_PIN}{link.ifindex}")
        try:
            libbpf.update_link(fd, program_fd)
        finally:
            os.close(fd)
    return mode


def _is_held(link: HostLink, pin_path: Path) -> bool:
    path = pin_path / f"{LINK_PIN}{link.ifindex}"
    if not path.exists():
        return False
    fd = libbpf.get_pinned(path)
    try:
        if libbpf.link_info(fd).ifindex == link.ifindex:
            return True
    finally:
        os.close(fd)
    path.unlink()  # of a device that is gone, whose number another has now
    return False


def _attach(
    program_fd: int, links: Sequence[HostLink], running: str, wanted: str
) -> tuple[str, list[tuple[HostLink, int]]]:
    mode = running or ("native" if wanted == "auto" else wanted)
    try:
        return mode, _attach_all(program_fd, links, mode)
    except _RefusedError as refused:
        if running == "native" and is_by_driver(refused.error):
            raise DatapathError(
                f"{refused.link.name}: cannot attach in native mode ({refused.why}), which the "
                f"other links have: take it out of interfaces, or have all of them in generic mode, {ANEW}"
            ) from refused.error
        if running or wanted != "auto" or not is_by_driver(refused.error):
            raise DatapathError(f"{refused.link.name}: {_explain(refused.error, mode)}") from refused.error
        event(
            _log,
            logging.WARNING,
            "xdp_generic",
            link=refused.link.name,
            found=f"no native XDP ({refused.why}): all links get generic, which {COST}",
            cure="earshot datapath remove, then earshot check: it says what is in the way",
        )
    try:
        return "generic", _attach_all(program_fd, links, "generic")
    except _RefusedError as refused:
        raise DatapathError(f"{refused.link.name}: {_explain(refused.error, 'generic')}") from refused.error


def _attach_all(program_fd: int, links: Sequence[HostLink], mode: str) -> list[tuple[HostLink, int]]:
    """On all of them, or on none."""
    with ExitStack() as undo:
        made = []
        for link in links:
            try:
                fd = libbpf.create_xdp_link(program_fd, link.ifindex, _FLAGS[mode])
            except OSError as error:
                raise _RefusedError(link, error) from error
            undo.callback(os.close, fd)
            made.append((link, fd))
        undo.pop_all()
    return made


def _say_what_stays(running: str, wanted: str) -> None:
    if wanted not in ("auto", running):
        found = f"the program stays attached in {running} mode, though xdp_mode is {wanted}"
        event(_log, logging.WARNING, "xdp_mode_stays", found=found, cure=ANEW)
    elif wanted == "auto" and running == "generic":
        found = f"the program is attached in generic mode, which {COST}"
        event(_log, logging.WARNING, "xdp_generic", found=found, cure=f"earshot check; then {ANEW}")


def _explain(error: OSError, mode: str) -> str:
    why = str(error.strerror)
    if error.errno in (errno.EBUSY, errno.EEXIST):
        return f"another XDP program is attached: {detach('NAME')}"
    if mode == "native":
        return f"cannot attach in native mode ({why}): try xdp_mode = 'auto'; see: earshot check"
    return f"cannot attach ({why})"
