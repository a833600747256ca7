# SPDX-License-Identifier: Apache-2.0
"""The reading end of a tap: one of a few in the program, for as long as this process is there.

The program tells of packets until a moment that is put off again and again. A process that ends
without a word leaves a tap that nobody puts off, and no ring: the kernel has closed those with it.
"""

from __future__ import annotations

import mmap
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from control import abi, libbpf
from control.errors import DatapathError
from control.maps import MappedArray
from control.records import endpoint_of
from control.taps.filters import Filter
from control.taps.packets import Packet, decode

# Far longer than a busy host lets a process wait, and short where one has died.
LEASE = 10_000_000_000  # ns
RENEW = 1_000_000_000
_MAPS = {
    "taps_v1": abi.TAPS.itemsize,
    "tap_rings_v1": 4,
    "vips_v1": abi.VIP.itemsize,
    "sessions_v1": abi.SESSION.itemsize,
}
_NOBODY = 0xFFFFFFFF  # NO_SESSION


class BusyError(DatapathError):
    """All taps are in use."""


class Tap:
    """Packets as they pass, from when it is made until close().

    Attributes:
        epoch: what a packet's time lacks of nanoseconds since 1970.
        notes: what whoever looks should be told of.
    """

    def __init__(self, pin_path: Path, wanted: Filter, *, snap: int, ring_bytes: int) -> None:
        """
        Args:
            snap: bytes of each frame, at most.
            ring_bytes: of memory on each CPU for what has not been read yet; made a power of two of pages.

        Raises:
            DatapathError: nothing is pinned, or it is of another version, or all taps are in use.
            LookupError: the filter's VIP is none of this relay.
        """
        self.epoch = time.time_ns() - time.monotonic_ns()
        self.notes: list[str] = []
        self._pin_path, self._wanted, self._snap = pin_path, wanted, snap
        self._told_lost = 0
        with ExitStack() as undo:
            self._fds = _open(pin_path)
            undo.callback(_close, self._fds)
            self._map_id = libbpf.map_info(self._fds["taps_v1"]).id
            mapping = MappedArray(self._fds["taps_v1"], abi.TAPS)
            self._taps = mapping.array
            undo.callback(mapping.close)
            undo.callback(lambda: self.__dict__.pop("_taps"))  # the mapping's view, before it
            tap = np.zeros(1, abi.TAP)
            wanted.enter(tap[0])
            tap["snap"], tap["vip"], tap["session"] = snap, self._vip_number(), self._session()
            if wanted.ufrag is not None and tap["session"][0] == _NOBODY:
                self.notes.append(
                    f"no session has the ufrag {wanted.ufrag} now: only requests for it are shown"
                )
            with _claiming(self._map_id):
                self._slot = self._free_slot()
                pages = max(1, -(-ring_bytes // mmap.PAGESIZE))
                try:
                    self._rings = libbpf.PerfRings(
                        self._fds["tap_rings_v1"],
                        {cpu: self._slot * abi.TAP_CPUS + cpu for cpu in _online_cpus()},
                        1 << (pages - 1).bit_length(),
                    )
                except PermissionError as error:
                    raise DatapathError(f"{error.strerror}: needs root, or CAP_PERFMON") from error
                undo.callback(self._rings.close)
                self._taps["taps"][0, self._slot] = tap[0]
                self._renewed = 0
                self.renew()
            undo.callback(self.stop)
            self._undo = undo.pop_all()

    def close(self) -> None:
        self._undo.close()

    def stop(self) -> None:
        """No more packets; what has been told can still be read."""
        self._taps["taps"]["until"][0, self._slot] = 0
        # The word that every packet looks at: of other taps, if there are any.
        self._taps["until"][0] = self._taps["taps"]["until"].max()

    def renew(self) -> None:
        """Says that somebody is still there; to be called every second or so. Cheap in between."""
        now = time.monotonic_ns()
        if now - self._renewed < RENEW:
            return
        if self._renewed and now > self._renewed + LEASE:
            self.notes.append(
                f"not looking for {(now - self._renewed - LEASE) / 1e9:.0f} s: this process had no turn"
            )
        self._renewed = now
        until = now + LEASE
        if self._wanted.ufrag is not None:
            self._taps["taps"]["session"][0, self._slot] = self._session()
        self._taps["taps"]["until"][0, self._slot] = until
        # Others do the same; where two do at once, the one who lost is heard again a second later.
        self._taps["until"][0] = max(until, int(self._taps["until"][0]))

    def is_current(self) -> bool:
        """Whether the relay still has the maps that this looks at, and the program is attached somewhere."""
        try:
            fd = libbpf.get_pinned(self._pin_path / "taps_v1")
        except OSError:
            return False
        try:
            return libbpf.map_info(fd).id == self._map_id and any(self._pin_path.glob("link_*"))
        finally:
            os.close(fd)

    def read(self) -> list[Packet]:
        """What has been told since the last call, oldest first. Does not wait."""
        packets = [decode(record, self._snap) for record in self._rings.read()]
        packets.sort(key=lambda packet: packet.time)
        return packets

    def newly_lost(self) -> int:
        """Packets that there was no room for since the last call."""
        lost = int(self._taps["taps"]["lost"][0, self._slot])
        new, self._told_lost = lost - self._told_lost, lost
        return new

    def _free_slot(self) -> int:
        untils = self._taps["taps"]["until"][0]
        free = np.flatnonzero(untils <= time.monotonic_ns())
        if not len(free):
            raise BusyError(f"{abi.TAP_MAX} others look at packets already: end one, or wait")
        return int(free[0])

    def _session(self) -> int:
        """The number of the session that has the ufrag now."""
        if self._wanted.ufrag is None:
            return _NOBODY
        key = self._wanted.ufrag.encode().ljust(abi.UFRAG_MAX, b"\0")
        raw = libbpf.lookup(self._fds["sessions_v1"], key, abi.SESSION.itemsize)
        return _NOBODY if raw is None else int(np.frombuffer(raw, abi.SESSION)["number"][0])

    def _vip_number(self) -> int:
        if self._wanted.vip is None:
            return 0
        for number in range(abi.VIP_MAX):
            raw = libbpf.lookup(self._fds["vips_v1"], np.uint32(number).tobytes(), abi.VIP.itemsize)
            vip = np.frombuffer(raw or bytes(abi.VIP.itemsize), abi.VIP)[0]
            if endpoint_of(vip) == self._wanted.vip:
                return number
        raise LookupError(f"{self._wanted.vip} is no VIP of this relay; see: earshot vip list")


def _open(pin_path: Path) -> dict[str, int]:
    """The maps that a tap needs, by name."""
    found: dict[str, int] = {}
    try:
        for name, size in _MAPS.items():
            found[name] = libbpf.get_pinned(pin_path / name)
            if libbpf.map_info(found[name]).value_size != size:
                raise DatapathError(f"{pin_path / name} is of another version than this command")
    except FileNotFoundError as error:
        _close(found)
        if not pin_path.is_dir() or not any(pin_path.iterdir()):
            raise DatapathError(
                f"no maps are pinned in {pin_path}: has earshotd run, with this pin_path?"
            ) from error
        raise DatapathError(
            f"the maps pinned in {pin_path} are of another version ({name} is missing): "
            "the program that runs knows no such tap; restart earshotd, which puts its own in place"
        ) from error
    except PermissionError as error:
        _close(found)
        raise DatapathError(f"{error.strerror}: needs root, or the user who owns {pin_path}") from error
    except DatapathError:
        _close(found)
        raise
    return found


def _close(fds: dict[str, int]) -> None:
    for fd in fds.values():
        os.close(fd)


def _online_cpus() -> Iterator[int]:
    for part in Path("/sys/devices/system/cpu/online").read_text().strip().split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


@contextmanager
def _claiming(map_id: int) -> Iterator[None]:
    """One process at a time chooses a slot. The name is the kernel's, and goes with the process."""
    for _ in range(100):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lock:
            try:
                lock.bind(f"\0earshot-tap-{map_id}")
            except OSError:
                time.sleep(0.05)
                continue
            yield
            return
    raise BusyError("another process has been about to look at packets for seconds: try again")
