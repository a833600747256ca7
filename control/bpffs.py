# SPDX-License-Identifier: Apache-2.0
"""The BPF file system: where pins live, and the lock that keeps daemons apart."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from control.errors import DatapathError

MOUNT_POINT = Path("/sys/fs/bpf")


def is_mounted(path: Path) -> bool:
    """Whether a path is on a BPF file system."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    over = [mount for mount in mounts if path == Path(mount[1]) or Path(mount[1]) in path.parents]
    return bool(over) and max(over, key=lambda mount: len(mount[1]))[2] == "bpf"


def ensure(pin_path: Path) -> None:
    """Makes pin_path, and mounts the file system at its usual place if that is missing.

    Raises:
        DatapathError: pin_path is not on a BPF file system, or cannot be made.
    """
    if not is_mounted(pin_path) and (pin_path == MOUNT_POINT or MOUNT_POINT in pin_path.parents):
        subprocess.run(["mount", "-t", "bpf", "bpf", str(MOUNT_POINT)], check=False, capture_output=True)
    if not is_mounted(pin_path):
        raise DatapathError(
            f"pin_path {pin_path} is not on a BPF file system: mount -t bpf bpf {MOUNT_POINT}"
        )
    try:
        pin_path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DatapathError(f"cannot make pin_path {pin_path}: {error.strerror}") from error


@contextmanager
def locked(pin_path: Path) -> Iterator[None]:
    """Holds the folder's lock: one process at a time sets up or takes down what is pinned there.

    Raises:
        DatapathError: another process holds it.
    """
    fd = os.open(pin_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DatapathError(
                f"{pin_path} is in use: another earshotd runs on this pin_path; stop it, or give this one a "
                "pin_path, a grpc_socket and links of its own"
            ) from error
        yield
    finally:
        os.close(fd)
