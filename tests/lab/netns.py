# SPDX-License-Identifier: Apache-2.0
"""Hosts as network namespaces, joined by veth links.

A `Lab` owns everything it makes under one prefix, `es-PID-N`: the namespaces
`es-PID-N-HOST`, the folder `/run/earshot-lab/es-PID-N` (sockets, logs) and the
folder `/sys/fs/bpf/es-PID-N` (pins). So whoever knows a prefix can remove all
of it, and `sweep` removes what a killed process has left behind.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType

from pyroute2 import netns

NETNS = Path("/run/netns")
RUN = Path("/run/earshot-lab")
BPFFS = Path("/sys/fs/bpf")
PREFIX = re.compile(r"es-(\d+)-\d+")

_numbers = itertools.count()


class LabError(Exception):
    """A command of the lab failed, or something did not happen in time."""


def run(argv: Sequence[str], *, stdin: str | None = None, timeout: float = 30) -> str:
    """Standard output of a command. Raises `LabError` with what it said if it fails."""
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode != 0:
        said = done.stderr.strip() or done.stdout.strip()
        raise LabError(f"{' '.join(argv)}: exit {done.returncode}: {said}")
    return done.stdout


class Host:
    """One network namespace. It shares the file system and all else with the machine."""

    def __init__(self, prefix: str, name: str, is_relay: bool) -> None:
        self.name = name
        self.is_relay = is_relay
        self.path = NETNS / f"{prefix}-{name}"
        run(["ip", "netns", "add", self.path.name])
        # Duplicate address detection would keep an address unusable for a second.
        self.sysctl("net.ipv6.conf.all.accept_dad", 0)
        self.sysctl("net.ipv6.conf.default.accept_dad", 0)
        self.ip("link set lo up")

    def command(self, *argv: str) -> list[str]:
        """`argv`, to be run in this host. Not by `ip netns exec`: that hides bpffs."""
        return ["nsenter", f"--net={self.path}", "--", *argv]

    def run(self, *argv: str, stdin: str | None = None, timeout: float = 30) -> str:
        """Standard output of a command in this host; raises `LabError` if it fails."""
        return run(self.command(*argv), stdin=stdin, timeout=timeout)

    def ip(self, *lines: str) -> None:
        """Runs commands of iproute2, without the leading `ip`."""
        run(["ip", "-n", self.path.name, "-batch", "-"], stdin="\n".join(lines))

    def nft(self, rules: str) -> None:
        self.run("nft", "-f", "-", stdin=rules)

    def sysctl(self, name: str, value: int) -> None:
        with self.inside():
            Path("/proc/sys", name.replace(".", "/")).write_text(str(value))

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """The calling thread is in this host while the block runs: never await in it."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            netns.setns(str(self.path))
            try:
                yield
            finally:
                netns.setns(home)
        finally:
            os.close(home)

    def socket(self, family: int, kind: int = socket.SOCK_DGRAM, timeout: float = 5) -> socket.socket:
        """A socket that lives in this host, whoever uses it."""
        with self.inside():
            made = socket.socket(family, kind)
        made.settimeout(timeout)
        return made


class Lab:
    """Hosts, links and processes that vanish together.

    Use as a context manager: everything goes at its end, on an exception, on
    Ctrl-C and on SIGTERM.
    """

    def __init__(self) -> None:
        self.prefix = f"es-{os.getpid()}-{next(_numbers)}"
        self.dir = RUN / self.prefix
        self.pins = BPFFS / self.prefix
        self.hosts: dict[str, Host] = {}
        self.kept = False
        self._indices = itertools.count(10)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._old_sigterm: signal._HANDLER = None

    def __enter__(self) -> Lab:
        if threading.current_thread() is threading.main_thread():
            self._old_sigterm = signal.signal(signal.SIGTERM, _exit_on_signal)
        mount_bpffs()
        self.dir.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _uninterrupted():
            if not self.kept:
                for process in reversed(self._processes):
                    stop(process)
                remove(self.prefix)
        if self._old_sigterm is not None:
            signal.signal(signal.SIGTERM, self._old_sigterm)

    def keep(self) -> None:
        """Leaves everything running at the end of the block; `sweep` spares it too."""
        (self.dir / "kept").touch()
        self.kept = True

    def host(self, name: str, *, is_relay: bool = False) -> Host:
        """Makes a host. A relay's links are left free for earshotd's XDP program."""
        made = self.hosts[name] = Host(self.prefix, name, is_relay)
        return made

    def link(
        self,
        a: Host,
        b: Host,
        addr_a: Sequence[str] = (),
        addr_b: Sequence[str] = (),
        *,
        mtu: int = 1500,
        name_a: str = "",
        name_b: str = "",
    ) -> None:
        """Joins two hosts by a veth pair; each end is named after the host it leads to.

        Addresses are of the form ADDRESS/LENGTH, of either family.
        """
        ends = ((a, name_a or b.name, addr_a), (b, name_b or a.name, addr_b))
        # Indices unique in the lab: for two ends of the same index, which namespaces
        # would hand out, the kernel takes up to a second to see the carrier.
        here, there = next(self._indices), next(self._indices)
        peer = f"peer name {ends[1][1]} index {there} mtu {mtu} netns {b.path.name}"
        a.ip(f"link add name {ends[0][1]} index {here} mtu {mtu} type veth {peer}")
        for host, interface, addresses in ends:
            host.ip(
                *(f"address add {address} dev {interface}{_nodad(address)}" for address in addresses),
                f"link set dev {interface} up",
            )
        for host, interface, _ in ends:
            # With checksum offload a socket's packet crosses a veth with its checksum
            # half done, and XDP would forward it so.
            host.run("ethtool", "-K", interface, "tx", "off")
            if not host.is_relay:
                # GRO, which would do for a redirect, leaves what XDP_TX sends in the
                # ring until some other packet wakes the receiver.
                host.ip(f"link set dev {interface} xdpdrv object {self._pass_program()} section xdp")

    def popen(self, host: Host, *argv: str, log: str = "") -> subprocess.Popen[bytes]:
        """Starts a command in a host; its output goes to the log file of that name.

        It is in a session of its own: a Ctrl-C reaches the lab alone, which then
        ends things in their order.
        """
        with self.log(log or argv[0].rpartition("/")[2]).open("ab") as output:
            process = subprocess.Popen(
                host.command(*argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def log(self, name: str) -> Path:
        return self.dir / f"{name}.log"

    def _pass_program(self) -> Path:
        """The XDP program for the ends of links that no relay has, compiled when first needed."""
        program = self.dir / "pass.o"
        if not program.exists():
            source = Path(__file__).with_name("pass.bpf.c")
            clang = os.environ.get("CLANG", "clang-19")
            run([clang, "-O2", "-Wall", "-target", "bpf", "-c", str(source), "-o", str(program)])
        return program

    @staticmethod
    def sweep() -> list[str]:
        """Removes the labs of processes that are dead; returns their prefixes."""
        dead = [prefix for prefix in labs() if not _alive(prefix) and not (RUN / prefix / "kept").exists()]
        for prefix in dead:
            remove(prefix)
        return dead


def labs() -> list[str]:
    """Prefixes of all labs of which anything is there."""
    names = {
        found.group()
        for folder in (NETNS, RUN, BPFFS)
        if folder.is_dir()
        for entry in folder.iterdir()
        if (found := PREFIX.match(entry.name))
    }
    return sorted(names)


def kept_labs() -> list[str]:
    """Prefixes of the labs that were left running on purpose."""
    return [prefix for prefix in labs() if (RUN / prefix / "kept").exists()]


def remove(prefix: str) -> None:
    """Ends what runs in a lab's hosts, and removes its namespaces, pins and files."""
    names = [path.name for path in NETNS.glob(f"{prefix}-*")]
    deadline = time.monotonic() + 5
    while pids := [int(pid) for name in names for pid in run(["ip", "netns", "pids", name]).split()]:
        if time.monotonic() > deadline:
            raise LabError(f"{prefix}: processes {pids} do not end")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    for name in names:
        run(["ip", "netns", "delete", name])
    for folder in (BPFFS / prefix, RUN / prefix):
        if folder.exists():
            shutil.rmtree(folder)


def stop(process: subprocess.Popen[bytes], timeout: float = 5) -> None:
    """Asks a process to end, and ends it when it does not within `timeout` seconds."""
    process.terminate()
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout)


def mount_bpffs() -> None:
    if not os.path.ismount(BPFFS):
        run(["mount", "-t", "bpf", "bpf", str(BPFFS)])


def _nodad(address: str) -> str:
    return " nodad" if ":" in address else ""


def _alive(prefix: str) -> bool:
    found = PREFIX.match(prefix)
    return found is not None and Path("/proc", found.group(1)).exists()


def _exit_on_signal(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """A second Ctrl-C must not leave half of a lab behind."""
    signals = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
