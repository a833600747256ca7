# SPDX-License-Identifier: Apache-2.0
"""Hosts as network namespaces, joined by veth links."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType

from tests.lab.host import Host, LabError, run
from tests.lab.leftovers import BPFFS, KEPT, RUN, remove

_numbers = itertools.count()
TRACES = ("Traceback", "event=unhandled")


class Lab:
    """Hosts, links and processes that vanish together.

    Use as a context manager: everything goes at its end, on an exception, on
    Ctrl-C and on SIGTERM. If all went well but for the logs of Earshot's
    programs, which have a stack trace, its end raises `LabError`.
    """

    def __init__(self) -> None:
        self.prefix = f"es-{os.getpid()}-{next(_numbers)}"
        self.dir = RUN / self.prefix
        self.pins = BPFFS / self.prefix
        self.hosts: dict[str, Host] = {}
        self.kept = False
        self._indices = itertools.count(10)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._old_handlers: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> Lab:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP):
                self._old_handlers[number] = signal.signal(number, _exit_on_signal)
        mount_bpffs()
        self.dir.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _uninterrupted():
            traces: list[str] = []
            if not self.kept:
                for process in reversed(self._processes):
                    stop(process)
                traces = self._traces()
                remove(self.prefix)
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        if kind is None and traces:
            raise LabError("\n".join(["Earshot's programs logged what nobody had foreseen:", *traces[:5]]))

    def keep(self) -> None:
        """Leaves everything running at the end of the block; `leftovers.remove` ends it."""
        (self.dir / KEPT).touch()
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

    def _traces(self) -> list[str]:
        """Lines of Earshot's logs with a stack trace: what a test does to it on purpose must leave none."""
        return [
            f"{log.name}: {line[:2000]}"
            for log in sorted(self.dir.glob("earshot*.log"))
            for line in log.read_text(errors="replace").splitlines()
            if any(sign in line for sign in TRACES)
        ]

    def _pass_program(self) -> Path:
        """The XDP program for the ends of links that no relay has."""
        program = self.dir / "pass.o"
        if not program.exists():
            program.write_bytes(_pass_object())
        return program


def stop(process: subprocess.Popen[bytes], timeout: float = 5) -> None:
    """Asks a process to end, and ends it when it does not within `timeout` seconds."""
    process.terminate()
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout)


@functools.cache
def _pass_object() -> bytes:
    """Compiled when a process first needs it."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "pass.o")
        source = Path(__file__).with_name("pass.bpf.c")
        clang = os.environ.get("CLANG", "clang-19")
        run([clang, "-O2", "-Wall", "-target", "bpf", "-c", str(source), "-o", str(made)])
        return made.read_bytes()


def mount_bpffs() -> None:
    if not os.path.ismount(BPFFS):
        run(["mount", "-t", "bpf", "bpf", str(BPFFS)])


def _nodad(address: str) -> str:
    return " nodad" if ":" in address else ""


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
