# SPDX-License-Identifier: Apache-2.0
"""What all commands share: options, exit statuses, and how the pinned maps are opened."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from control.config import Config
from control.errors import OtherVersionError
from control.flows import Clock
from control.settings import environment_name

if TYPE_CHECKING:
    from control.datapath import Datapath
    from control.former_relay import FormerRelay

EXIT_FAILED, EXIT_NO_DATAPATH = 1, 3
_EXIT_STATUS = (
    ("0", "done"),
    ("1", "not found, refused, or a check failed"),
    ("2", "wrong usage"),
    ("3", "no datapath: nothing is pinned, or it may not be read"),
)
DEFAULT_PIN_PATH = Path(str(Config.__dataclass_fields__["pin_path"].default))

# Not checked by click: what is wrong with a path has an exit status of its own.
PATH = click.Path(path_type=Path, readable=False)


class Command(click.Command):
    """A command whose help ends with its exit statuses."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_exit_status(formatter)


def write_exit_status(formatter: click.HelpFormatter) -> None:
    with formatter.section("Exit status"):
        formatter.write_dl(_EXIT_STATUS)


class FailedError(click.ClickException):
    """What was asked for does not exist, or is refused."""

    exit_code = EXIT_FAILED


class NoDatapathError(click.ClickException):
    """There are no maps to read."""

    exit_code = EXIT_NO_DATAPATH


def pin_path_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--pin-path",
        type=PATH,
        envvar=environment_name("pin_path"),
        default=DEFAULT_PIN_PATH,
        show_default=True,
        show_envvar=True,
        help="Where the maps are pinned, as in earshotd's configuration.",
    )(command)


def form_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "-o",
        "--output",
        "form",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="A table for people, or JSON for programs.",
    )(command)


def now() -> Clock:
    """The moment by which ages are told."""
    return Clock.at(time.monotonic_ns())


@contextmanager
def pinned_maps(pin_path: Path) -> Iterator[Datapath]:
    """The maps that are pinned there, read-only."""
    # Not before it is needed: it loads LLVM, which --help has no use of.
    from control.pinned import open_pinned

    datapath = open_pinned(pin_path)
    try:
        yield datapath
    finally:
        datapath.close()


@contextmanager
def shown_maps(pin_path: Path) -> Iterator[Datapath | FormerRelay]:
    """The same for lists, which can be made of a former layout as well; that it is one is said on stderr."""
    from control.former_relay import FormerRelay
    from control.pinned import open_pinned

    maps: Datapath | FormerRelay
    try:
        maps = open_pinned(pin_path)
    except OtherVersionError as error:
        try:
            maps = FormerRelay(pin_path)
        except OtherVersionError as why:
            raise OtherVersionError(f"{error} (not here: {why})") from None
        click.echo(f"{str(error).partition(';')[0]}; shown as they were a moment ago", err=True)
    try:
        yield maps
    finally:
        maps.close()
