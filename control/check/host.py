# SPDX-License-Identifier: Apache-2.0
"""Checks of the host as a whole: kernel, privileges, libraries."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from control import bpffs, fdinfo, hostlinks
from control.check.finding import Finding, failed, ok, warning

OLDEST_KERNEL = (6, 1)
BTF = Path("/sys/kernel/btf/vmlinux")
PROGRAM = "program"  # the name of the finding that says whether the kernel takes it
_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_PERFMON": 38, "CAP_BPF": 39}
_CAP_SYS_ADMIN = 21


def findings(pin_path: Path) -> Iterator[Finding]:
    """All of them. The program is loaded for it, and let go of again."""
    yield kernel(os.uname().release)
    yield btf(BTF)
    yield capabilities(Path("/proc/self/status").read_text())
    yield bpf_file_system(pin_path)
    libraries = library()
    yield libraries
    if libraries.status == "ok":
        yield from program()
    yield lo_forwarding(hostlinks.LO_FORWARDING)


def kernel(release: str) -> Finding:
    version = re.match(r"(\d+)\.(\d+)", release)
    if version is None:
        return warning("kernel", release, "the version cannot be told: 6.1 or newer is needed")
    if (int(version[1]), int(version[2])) < OLDEST_KERNEL:
        return failed(
            "kernel",
            release,
            "use Linux 6.1 or newer: it is the oldest that Earshot is tested on, and older verifiers may "
            "refuse the program",
        )
    return ok("kernel", release)


def btf(path: Path) -> Finding:
    if path.exists():
        return ok("btf", str(path))
    return warning(
        "btf", f"{path} is missing", "use a kernel with CONFIG_DEBUG_INFO_BTF, as distributions' are"
    )


def capabilities(process_status: str) -> Finding:
    """What /proc/PID/status says of a process, by capabilities(7)."""
    effective = re.search(r"^CapEff:\s*([0-9a-f]+)$", process_status, re.MULTILINE)
    held = int(effective[1], 16) if effective else 0
    if held >> _CAP_SYS_ADMIN & 1:  # CAP_BPF and CAP_PERFMON are parts of it
        held |= 1 << _CAPABILITIES["CAP_BPF"] | 1 << _CAPABILITIES["CAP_PERFMON"]
    missing = [name for name, bit in _CAPABILITIES.items() if not held >> bit & 1]
    if missing:
        return failed(
            "capabilities", f"this process lacks {', '.join(missing)}", "run as root, or grant them"
        )
    return ok("capabilities", ", ".join(_CAPABILITIES))


def bpf_file_system(pin_path: Path) -> Finding:
    if bpffs.is_mounted(pin_path):
        return ok("bpffs", f"{pin_path} is on a BPF file system")
    found = f"{pin_path} is not on a BPF file system"
    if bpffs.MOUNT_POINT in (pin_path, *pin_path.parents):
        cure = f"earshotd mounts it at its start; to keep it: mount -t bpf bpf {bpffs.MOUNT_POINT}"
        return warning("bpffs", found, cure)
    return failed("bpffs", found, f"set pin_path to a folder in {bpffs.MOUNT_POINT}")


def library() -> Finding:
    """bcc's libbcc, which brings libbpf with it; or libbpf by itself."""
    try:
        from control import libbpf
    except (ImportError, OSError, AttributeError) as error:
        # AttributeError: something else is named bcc, or its libbpf lacks a function.
        cure = "apt install python3-bpfcc, in an environment that sees the system's packages"
        return failed("libbpf", f"cannot be used: {error}", cure)
    own, bccs = libbpf.versions()
    return ok("libbpf", f"{own}, by bcc {bccs}" if bccs else f"{own}, by itself")


def program() -> Iterator[Finding]:
    """Whether this kernel takes the program, and compiles it. Needs the libraries."""
    from control import libbpf, loader, pinned
    from control.errors import DatapathError

    try:
        path = pinned.object_path()
    except DatapathError as error:
        yield failed(PROGRAM, str(error), "install Earshot again, or run scripts/build in its sources")
        return
    try:
        with libbpf.BpfObject(path) as bpf:
            bpf.load()
            told = fdinfo.read(bpf.program_fd(loader.PROGRAM))
    except OSError as error:
        found = (error.strerror or "the kernel refused it").splitlines()[0]  # the verifier's log follows
        log = f"bpftool -d prog load {path} {bpffs.MOUNT_POINT}/trial"
        yield failed(PROGRAM, found, f"see capabilities and kernel above; for the verifier's log: {log}")
        return
    yield ok(PROGRAM, f"accepted by the kernel ({told.get('verified_insns', '?')} instructions verified)")
    if told.get("prog_jited") == "1":
        yield ok("jit", "the program is compiled to machine code")
    else:
        yield warning("jit", "the program is interpreted", "sysctl -w net.core.bpf_jit_enable=1")


def lo_forwarding(settings: Sequence[Path]) -> Finding:
    """Whether the daemon can do what control/hostlinks.py says about lo, or need not."""
    for path in settings:
        try:
            if path.read_text().strip() != "1":
                path.open("r+").close()  # as far as one gets without changing it
        except FileNotFoundError:
            continue  # a kernel without that family
        except OSError as error:
            setting = str(path).removeprefix("/proc/sys/").replace("/", ".")
            return failed(
                "lo-forwarding", f"{setting} cannot be set: {error.strerror}", f"sysctl -w {setting}=1"
            )
    return ok("lo-forwarding", "is on, or can be turned on")
