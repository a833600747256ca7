# SPDX-License-Identifier: Apache-2.0
"""The host of one's own that the README configures, with a call on it, for the commands of the documentation.

Paths are as the documentation has them (/etc/earshot, /run/earshot, /sys/fs/bpf): the host has a mount
namespace in which they are its own, and the machine's stay as they are.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.docs.commands import ROOT
from tests.lab.host import LabError, run
from tests.lab.netns import Lab, stop
from tests.lab.services import BIN, READY
from tests.lab.topology import IPV4, Site

DAEMONS = ("earshotd", "earshot-transceiver", "earshot-agent")
TIMEOUT = 30.0
# Mounts of its own, for as long as it lives: /etc with another /etc/earshot, an empty /run, no pins.
_MOUNTS = """
    mount --make-rprivate /
    mount -t overlay overlay -o lowerdir=$1:/etc /etc
    mount -t tmpfs run /run
    mount -t bpf bpf /sys/fs/bpf
    mkdir /run/earshot
    echo mounted
    exec sleep infinity"""


@dataclass
class World:
    """A host that is set up as the README says, between a client and a transceiver."""

    site: Site
    mounts: int  # a process that is in them
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def relay_target(self) -> str:
        """earshotd's, from outside of the mounts."""
        return f"unix:/proc/{self.mounts}/root/run/earshot/earshotd.sock"

    def run(self, text: str) -> str:
        """Standard output of a command in the relay host; it is told yes where it asks. Raises `LabError`."""
        try:
            return run(self.site.relay.command(*self._argv(text)), stdin="y\n", timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            raise LabError(f"{text}: has not ended after {TIMEOUT:.0f} s") from None

    def start(self, text: str) -> None:
        """A daemon, until it is ready; it takes the place of a former one. Raises `LabError`."""
        name = text.split()[0]
        self.stop(name)
        host = self.site.relay if name == "earshotd" else self.site.transceiver
        before = self._log(name)
        process = self.running[name] = self.site.lab.popen(host, *self._argv(f"exec {text}"), log=name)
        deadline = time.monotonic() + TIMEOUT
        while READY not in (said := self._log(name)[len(before) :]):
            if process.poll() is not None or time.monotonic() > deadline:
                raise LabError(f"{text}: is not ready: {said[-2000:]}")
            time.sleep(0.05)

    def stop(self, name: str) -> None:
        """As by Ctrl-C, if it runs."""
        if name in self.running:
            stop(self.running.pop(name))

    def _argv(self, text: str) -> list[str]:
        """A line of shell, where our programs are installed."""
        path = f"PATH={BIN}:/usr/sbin:/usr/bin:/sbin:/bin"
        enter = ["nsenter", f"--mount=/proc/{self.mounts}/ns/mnt", f"--wd={ROOT}"]
        return [*enter, "env", path, "bash", "-c", text]

    def _log(self, name: str) -> str:
        log = self.site.lab.log(name)
        return log.read_text(errors="replace") if log.exists() else ""


@contextlib.contextmanager
def world() -> Iterator[World]:
    """The host with the README's configuration, and nothing running on it."""
    with Lab() as lab:
        client, relay, transceiver = (
            lab.host("client"),
            lab.host("relay", is_relay=True),
            lab.host("transceiver"),
        )
        outer, inner = readme_links()
        lab.link(client, relay, [f"{IPV4.client}/24"], ["198.51.100.1/24"], name_b=outer)
        lab.link(relay, transceiver, [f"{IPV4.relay}/24"], [f"{IPV4.transceiver}/24"], name_a=inner)
        client.ip("route add default via 198.51.100.1")
        relay.ip(f"address add {IPV4.vip}/32 dev lo")
        etc = lab.dir / "etc"
        (etc / "earshot").mkdir(parents=True)
        (etc / "earshot/earshotd.toml").write_text(readme_configuration())
        holder = lab.popen(
            relay, "unshare", "--mount", "bash", "-ec", _MOUNTS, "bash", str(etc), log="mounts"
        )
        deadline = time.monotonic() + TIMEOUT
        while "mounted" not in (said := lab.log("mounts").read_text()):
            if holder.poll() is not None or time.monotonic() > deadline:
                raise LabError(f"no mounts: {said}")
            time.sleep(0.02)
        yield World(Site(lab, client, relay, transceiver, relay.name, (outer, inner), {4: IPV4}), holder.pid)


def readme_configuration() -> str:
    """The README's earshotd.toml."""
    found = re.search(
        r"```toml\n(# /etc/earshot/earshotd\.toml\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    if found is None:
        raise LabError("the README has no /etc/earshot/earshotd.toml")
    return found[1]


def readme_links() -> tuple[str, str]:
    """The names of its two links."""
    first, second = tomllib.loads(readme_configuration())["interfaces"]
    return first, second
