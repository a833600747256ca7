# SPDX-License-Identifier: Apache-2.0
"""`earshot capture`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from control.cli.looking import (
    EXIT_FULL,
    LookingCommand,
    Wanted,
    filter_options,
    link_name,
    look,
    opened,
    say,
)
from control.cli.options import PATH, FailedError, pin_path_option
from control.taps import pcapng

if TYPE_CHECKING:
    from control.taps.packets import Packet

_SNAP_MAX = 65535  # of a perf record; XDP's frames are within a page


class FullError(click.ClickException):
    """The disk is full."""

    exit_code = EXIT_FULL


@click.command("capture", cls=LookingCommand)
@click.argument("file", type=PATH)
@filter_options(count=1_000_000, buffer_kib=1024)
@click.option(
    "--size",
    "megabytes",
    type=click.IntRange(1, 1 << 20),
    default=100,
    show_default=True,
    metavar="MB",
    help="End when the file is so large, in units of 1,000,000 bytes.",
)
@click.option(
    "--snaplen",
    type=click.IntRange(14, _SNAP_MAX),
    default=2048,
    show_default=True,
    metavar="BYTES",
    help="Of each frame, at most.",
)
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@pin_path_option
def capture(file: Path, wanted: Wanted, megabytes: int, snaplen: int, force: bool, pin_path: Path) -> None:
    """Write packets to a pcapng FILE, as they came and as they left, for Wireshark and tshark.

    A link has two interfaces in it: LINK:in has packets before the program has changed them, LINK:out those
    that it has sent by it. Each has the reason as comment; the two of one packet have the same packet id.
    FILE may be - for a pipe. It is made with mode 0600.

    \b
    Examples:
      earshot capture call.pcapng --client 198.51.100.7 --seconds 30
      earshot capture - --ufrag Xk3f | tshark -r - -T fields -e frame.interface_name -e frame.comment
      tshark -r call.pcapng -Y 'frame.comment contains "drop_"'
    """
    with opened(pin_path, wanted, snaplen) as seen, _created(file, force) as fd:
        pcap = _Capture(pcapng.Writer(fd, megabytes * 10**6), seen.tap.epoch, snaplen)
        try:
            pcap.begin()
            result = look(seen, wanted, pcap.write)
            if result.lost:
                pcap.write_lost(result.lost)
        except pcapng.FullError as error:
            raise FullError(
                f"{file}: {error.strerror}; what is in it can be read, up to its last whole packet"
            ) from error
        say(result, f"in {file}" if str(file) != "-" else "written")


@contextmanager
def _created(file: Path, force: bool) -> Iterator[int]:
    if str(file) == "-":
        yield 1
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_TRUNC if force else os.O_EXCL)
    try:
        fd = os.open(file, flags, 0o600)
    except FileExistsError as error:
        raise FailedError(f"{file} is there already: name another, or say --force") from error
    try:
        yield fd
    finally:
        os.close(fd)


class _Capture:
    """Numbers interfaces as they come up, and packets."""

    def __init__(self, writer: pcapng.Writer, epoch: int, snap: int) -> None:
        self._writer, self._epoch, self._snap = writer, epoch, snap
        self._interfaces: dict[tuple[int, str], int] = {}
        self._last = 0  # ns since 1970

    def begin(self) -> None:
        self._writer.write([pcapng.section("earshot capture")])

    def write(self, packets: list[Packet]) -> bool:
        for start in range(0, len(packets), 100):
            part = packets[start : start + 100]
            blocks = [block for packet in part for block in self._blocks(packet)]
            if not self._writer.write(blocks):
                return False
        return True

    def write_lost(self, lost: int) -> None:
        """Of which interface, nobody knows: it is said of the first."""
        if self._interfaces:
            self._writer.write([pcapng.statistics(0, self._last, lost)])

    def _blocks(self, packet: Packet) -> Iterator[bytes]:
        self._last = packet.time + self._epoch
        number = (packet.time << 16 | packet.ifindex & 0xFFFF) & (1 << 64) - 1
        comment = f"{packet.reason} {packet.action}"
        if packet.client is not None:
            comment += f", client {packet.client}"
        sides = [(packet.ifindex, "in", packet.before, pcapng.INBOUND)]
        if packet.after is not None and packet.egress is not None:
            sides.append((packet.egress, "out", packet.after, pcapng.OUTBOUND))
        for ifindex, side, data, direction in sides:
            key = ifindex, side
            if key not in self._interfaces:
                self._interfaces[key] = len(self._interfaces)
                yield self._interface(*key)
            yield pcapng.packet(
                pcapng.Record(
                    self._interfaces[key], self._last, data, packet.length, direction, number, comment
                )
            )

    def _interface(self, ifindex: int, side: str) -> bytes:
        name = link_name(ifindex) or f"ifindex{ifindex}"
        what = "as they came, before the rewrite" if side == "in" else "as they left, after the rewrite"
        return pcapng.interface(f"{name}:{side}", f"{name}: {what}", self._snap)
