# SPDX-License-Identifier: Apache-2.0
"""A Debian that has booted, by its own systemd and in namespaces: for what a chroot does not show."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.host import Host, LabError, run

BUILD = Path(__file__).parents[2] / "build" / "machine"
_BOOT = Path(__file__).parent / "boot"
# What a server has, and what the package depends on: so that it can be installed without a network.
_PACKAGES = "systemd,systemd-sysv,dbus,iproute2,iputils-ping,procps,python3,python3-bpfcc,libstdc++6,zlib1g"
_NAMESPACES = ("--mount", "--pid", "--fork", "--kill-child", "--cgroup", "--uts", "--ipc")
BOOT_TIMEOUT = 60.0


def base() -> Path:
    """The archive of a Debian of this release, made if it is not there."""
    release = run(["sh", "-c", ". /etc/os-release; echo $VERSION_CODENAME"]).strip()
    archive = BUILD / f"{release}.tar"
    if not archive.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        made = archive.with_suffix(".new.tar")
        run(["mmdebstrap", "--variant=minbase", f"--include={_PACKAGES}", release, str(made)], timeout=600)
        made.rename(archive)
    return archive


class Machine:
    """A machine that runs. `root` is its file system as its processes see it."""

    def __init__(self, leader: int) -> None:
        self._leader = leader
        self.root = Path(f"/proc/{leader}/root")

    def command(self, *argv: str) -> list[str]:
        """`argv`, to be run in it, by its root."""
        return ["nsenter", f"--target={self._leader}", "--all", "--", *argv]

    def run(self, *argv: str, status: int = 0, timeout: float = 120) -> str:
        """What a command in it says, on both outputs; its exit status has to be this one."""
        done = subprocess.run(
            self.command(*argv),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == status, f"{' '.join(argv)}: exit {done.returncode}: {done.stdout}"
        return done.stdout

    def property(self, unit: str, name: str) -> str:
        """What systemd tells of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def log(self, unit: str) -> str:
        return self.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}")


@contextmanager
def booted(host: Host, folder: Path) -> Iterator[Machine]:
    """A machine whose network is a host's of the lab, and whose disk a new folder; it is gone afterwards."""
    folder.mkdir()
    run(["tar", "-C", str(folder), "-xf", str(base()), "--exclude=./dev/*"], timeout=300)
    process = subprocess.Popen(host.command("unshare", *_NAMESPACES, str(_BOOT), str(folder)))
    try:
        machine = Machine(_init(process))
        _wait_until_it_runs(machine)
        yield machine
    finally:
        process.kill()  # and with it its child, which is the first process of all others
        process.wait()
        shutil.rmtree(folder)


def _init(process: subprocess.Popen[bytes]) -> int:
    """The number of the first process in it, once that is systemd."""
    deadline = time.monotonic() + BOOT_TIMEOUT
    while time.monotonic() < deadline:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if children and Path(f"/proc/{children[0]}/comm").read_text().strip() == "systemd":
            return int(children[0])
        if process.poll() is not None:
            raise LabError(f"it did not boot: exit {process.returncode}")
        time.sleep(0.05)
    raise LabError("it did not boot in time")


def _wait_until_it_runs(machine: Machine) -> None:
    deadline = time.monotonic() + BOOT_TIMEOUT
    said = ""
    while time.monotonic() < deadline:
        command = machine.command("systemctl", "is-system-running")
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout.strip()
        if said in {"running", "degraded"}:
            return
        time.sleep(0.1)
    raise LabError(f"it is not up in time, but {said or 'silent'}")
