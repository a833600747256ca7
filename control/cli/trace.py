# SPDX-License-Identifier: Apache-2.0
"""`earshot trace`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from control.cli.looking import LookingCommand, Wanted, filter_options, link_name, look, opened, say
from control.cli.options import form_option, pin_path_option

if TYPE_CHECKING:
    from control.taps.packets import Packet

_SNAP = 640  # enough for a USERNAME of the longest, wherever browsers put it
_COLUMNS = (  # and their least widths
    ("TIME", 15),
    ("LINK", 6),
    ("FROM", 21),
    ("TO", 21),
    ("CLASS", 15),
    ("BYTES", 5),
    ("REASON", 23),
    ("ACTION", 8),
)


@click.command("trace", cls=LookingCommand)
@filter_options(count=1000, buffer_kib=256)
@form_option
@pin_path_option
def trace(wanted: Wanted, form: str, pin_path: Path) -> None:
    """Follow packets: what each one is, what became of it, and why.

    FROM and TO are as the packet came. Nothing is copied before this starts and after it ends, however it
    ends. JSON has an object on each line.

    \b
    Examples:
      earshot trace --client 198.51.100.7
      earshot trace --ufrag Xk3f --seconds 10
      earshot trace --drops-only --sample 100
      earshot trace --reason drop_stun_integrity -o json | jq .source
    """
    with opened(pin_path, wanted, _SNAP) as seen:
        write = _Table(seen.tap.epoch).write if form == "table" else _Lines(seen.tap.epoch).write
        say(look(seen, wanted, write, _lost if form == "json" else lambda lost: None), "shown")


def row(packet: Packet, epoch: int) -> dict[str, Any]:
    """A packet as JSON shows it."""
    headers, after = packet.headers, packet.headers_after
    nanoseconds = packet.time + epoch
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(nanoseconds // 10**9))

    def text(value: object) -> str | None:
        return None if value is None else str(value)

    return {
        "event": "packet",
        "time": f"{seconds}.{nanoseconds % 10**9:09}Z",
        "direction": packet.direction,
        "interface": link_name(packet.ifindex),
        "source": text(headers.source),
        "destination": text(headers.destination),
        "class": headers.kind,
        "ufrag": headers.ufrag,
        "frame_bytes": packet.length,
        "client": text(packet.client),
        "reason": packet.reason,
        "action": packet.action,
        "sent_interface": None if packet.egress is None else link_name(packet.egress),
        "sent_source": None if after is None else text(after.source),
        "sent_destination": None if after is None else text(after.destination),
    }


class _Lines:
    """JSON lines."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch

    def write(self, packets: list[Packet]) -> bool:
        click.echo("\n".join(json.dumps(row(packet, self._epoch)) for packet in packets))
        return True


def _lost(packets: int) -> None:
    click.echo(json.dumps({"event": "lost", "packets": packets}))


class _Table:
    """Lines for people, whose columns get wider where they must."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self._widths = [width for _, width in _COLUMNS]
        self._titled = False

    def write(self, packets: list[Packet]) -> bool:
        lines = [] if self._titled else [[title for title, _ in _COLUMNS]]
        self._titled = True
        lines += [self._cells(packet) for packet in packets]
        for line in lines:
            self._widths = [max(width, len(cell)) for width, cell in zip(self._widths, line, strict=True)]
        click.echo("\n".join(self._line(line) for line in lines))
        return True

    def _cells(self, packet: Packet) -> list[str]:
        headers = packet.headers
        nanoseconds = packet.time + self._epoch
        clock = time.strftime("%H:%M:%S", time.localtime(nanoseconds // 10**9))
        return [
            f"{clock}.{nanoseconds % 10**9 // 1000:06}",
            link_name(packet.ifindex) or "-",
            str(headers.source or "-"),
            str(headers.destination or "-"),
            headers.kind,
            str(packet.length),
            packet.reason,
            packet.action,
        ]

    def _line(self, cells: list[str]) -> str:
        padded = (
            cell.rjust(width) if title == "BYTES" else cell.ljust(width)
            for cell, width, (title, _) in zip(cells, self._widths, _COLUMNS, strict=True)
        )
        return "  ".join(padded).rstrip()
