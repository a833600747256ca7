# SPDX-License-Identifier: Apache-2.0
"""What `earshot trace` and `earshot capture` share: which packets, until when, and how it ends."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from control.abi import TAP_MAX, Reason
from control.addresses import Endpoint, parse_endpoint
from control.cli.flow_rows import Client
from control.cli.options import Command, FailedError
from control.taps import filters
from control.taps.filters import Filter

if TYPE_CHECKING:
    from control.taps.packets import Packet
    from control.taps.tap import Tap

EXIT_ENDED, EXIT_FULL = 4, 5
_EXIT_STATUS = (
    ("4", "the program was detached, or its maps replaced, meanwhile"),
    ("5", "the disk is full (capture)"),
)
_PAUSE = 0.05  # seconds
_CHECK = 0.5
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class LookingCommand(Command):
    """Has exit statuses of its own."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        with formatter.indentation():
            formatter.write_dl(_EXIT_STATUS)


class EndedError(click.ClickException):
    """What was looked at is not there any more."""

    exit_code = EXIT_ENDED


def _parsed(parse: Callable[[str], Any], what: str) -> Callable[..., Any]:
    def callback(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        try:
            if isinstance(value, tuple):
                return frozenset(parse(text) for text in value)
            return None if value is None else parse(value)
        except ValueError as error:
            raise click.BadParameter(f"{error}; expected {what}", ctx, param) from error

    return callback


@dataclass(frozen=True)
class Wanted:
    """The options of filter_options() as one argument."""

    filter: Filter
    count: int
    seconds: float
    buffer_kib: int


def filter_options(count: int, buffer_kib: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options by which packets are chosen, and their defaults; the command gets a Wanted as `wanted`."""

    def gather(
        command: Callable[..., Any],
        *,
        client: Client | None,
        vip: Endpoint | None,
        ufrag: str | None,
        reasons: frozenset[Reason],
        drops_only: bool,
        sample: int,
        count: int,
        seconds: float,
        buffer_kib: int,
        **rest: Any,
    ) -> Any:
        who = None if client is None else (client.address, client.port)
        chosen = Filter(who, vip, ufrag, reasons, drops_only, sample)
        return command(wanted=Wanted(chosen, count, seconds, buffer_kib), **rest)

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        def gathered(**arguments: Any) -> Any:
            return gather(command, **arguments)

        gathered.__doc__ = command.__doc__
        for option in reversed(_options(count, buffer_kib)):
            gathered = option(gathered)
        # Options that are put on the command before this one.
        gathered.__click_params__ = [  # type: ignore[attr-defined]
            *getattr(command, "__click_params__", ()),
            *gathered.__click_params__,  # type: ignore[attr-defined]
        ]
        return gathered

    return decorate


def _options(count: int, buffer_kib: int) -> list[Callable[..., Any]]:
    return [
        click.option(
            "--client",
            callback=_parsed(Client.parse, "ADDR, ADDR:PORT or [ADDR]:PORT"),
            metavar="ADDR[:PORT]",
            help="Only this client's packets, both ways.",
        ),
        click.option(
            "--vip",
            callback=_parsed(parse_endpoint, "ADDR:PORT or [ADDR]:PORT"),
            metavar="ADDR:PORT",
            help="Only of clients of this VIP, both ways.",
        ),
        click.option(
            "--ufrag",
            callback=_parsed(filters.parse_ufrag, "a server's ufrag"),
            metavar="UFRAG",
            help="Only requests for this ufrag, and its session's flows, both ways.",
        ),
        click.option(
            "--reason",
            "reasons",
            multiple=True,
            callback=_parsed(filters.parse_reason, "a reason"),
            metavar="REASON",
            help="Only this; may be given several times. Without it, what is passed to the host is left out.",
        ),
        click.option("--drops-only", is_flag=True, help="Only what is dropped."),
        click.option(
            "--sample",
            type=click.IntRange(1, 1 << 30),
            default=1,
            metavar="N",
            help="One of N packets, by chance.  [default: each]",
        ),
        click.option(
            "--count",
            type=click.IntRange(1),
            default=count,
            show_default=True,
            metavar="N",
            help="End after so many packets.",
        ),
        click.option(
            "--seconds",
            type=click.FloatRange(0, min_open=True),
            default=60.0,
            show_default=True,
            metavar="S",
            help="End after so long.",
        ),
        click.option(
            "--buffer",
            "buffer_kib",
            type=click.IntRange(4, 1 << 18),
            default=buffer_kib,
            show_default=True,
            metavar="KIB",
            help="Memory on each CPU for packets that are not read yet.",
        ),
    ]


@dataclass
class Opened:
    """A tap, and the signals that have come since shortly before it."""

    tap: Tap
    signals: list[int]


@contextmanager
def opened(pin_path: Path, wanted: Wanted, snap: int) -> Iterator[Opened]:
    """A tap with what was asked for. SIGINT, SIGTERM and SIGHUP do not end the process meanwhile."""
    from control.taps.tap import BusyError, Tap  # as in pinned_maps()

    signals: list[int] = []
    former = {number: signal.signal(number, lambda got, frame: signals.append(got)) for number in _SIGNALS}
    try:
        try:
            tap = Tap(pin_path, wanted.filter, snap=snap, ring_bytes=wanted.buffer_kib << 10)
        except LookupError as error:
            raise FailedError(str(error)) from error
        except BusyError as error:
            raise FailedError(f"{error} (there is room for {TAP_MAX})") from error
        try:
            yield Opened(tap, signals)
        finally:
            tap.close()
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@dataclass
class Result:
    """What looking came to."""

    packets: int = 0
    lost: int = 0
    why: str = ""
    ended: bool = field(default=False, repr=False)


def look(
    seen: Opened,
    wanted: Wanted,
    show: Callable[[list[Packet]], bool],
    tell_lost: Callable[[int], None] = lambda lost: None,
) -> Result:
    """Shows packets until a bound is reached, a signal comes, or `show` says False.

    Notes are told of on stderr.
    """
    result, tap = Result(), seen.tap
    deadline = time.monotonic() + wanted.seconds
    checked = 0.0
    while not result.why:
        tap.renew()
        now = time.monotonic()
        if seen.signals:
            result.why = f"ended by {signal.Signals(seen.signals[0]).name}"
        elif now >= deadline:
            result.why = f"{wanted.seconds:g} s have passed"
        elif now - checked >= _CHECK:
            checked = now
            result.ended = not tap.is_current()
            if result.ended:
                result.why = "the program was detached, or its maps were replaced"
        if result.why:
            tap.stop()  # and then what waits already
        packets = tap.read()[: wanted.count - result.packets]
        result.packets += len(packets)
        if packets and not show(packets):
            result.why = result.why or "as large as it may get"
        if result.packets >= wanted.count:
            result.why = result.why or f"{wanted.count} packets"
        lost = tap.newly_lost()
        if lost:
            result.lost += lost
            tell_lost(lost)
        while tap.notes:
            click.echo(tap.notes.pop(0), err=True)
        if not packets and not result.why:
            time.sleep(_PAUSE)
    tap.stop()
    return result


def say(result: Result, verb: str) -> None:
    """The last line on stderr. Raises EndedError where what was looked at has gone."""
    lost = f", {result.lost} lost: there was no room (--buffer, --sample)" if result.lost else ""
    click.echo(f"{result.packets} packets {verb}{lost}; {result.why}.", err=True)
    if result.ended:
        raise EndedError("run it again to look at the program that runs now")


@cache
def link_name(ifindex: int) -> str | None:
    """A link's name, if it is in this network namespace."""
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return None
