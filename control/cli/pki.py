# SPDX-License-Identifier: Apache-2.0
"""`earshot pki`: certificates for tests and first steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from control.cli.options import Command, FailedError

_FOLDER = click.Path(path_type=Path, file_okay=False)
_YEARS = 3650


def _days_option(default: int) -> Callable[..., Any]:
    return click.option(
        "--days",
        type=click.IntRange(1, _YEARS),
        default=default,
        show_default=True,
        help="How long it is valid.",
    )


@click.group("pki")
def group() -> None:
    """A small CA for tests and first steps.

    Its key lies unprotected beside the certificates, and nothing can be revoked. Where there is a CA
    already, use that one: earshotd and transceivers take any certificates in PEM.
    """


@group.command("init", cls=Command)
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.option(
    "--san", "sans", multiple=True, help="The relay's DNS name or IP address.  [default: localhost]"
)
@_days_option(365)
def init(folder: Path, sans: Sequence[str], days: int) -> None:
    """Make a CA (ca.crt, ca.key) and a relay's certificate (relay.crt, relay.key) in DIR.

    Files have mode 0600, and none is overwritten. For tests and first steps.

    \b
    Examples:
      earshot pki init /etc/earshot/pki --san relay-1.example --san 10.0.0.1
    """
    from control import pki  # not before it is needed: cryptography is slow to load

    try:
        made = pki.init(folder, sans or ("localhost", "127.0.0.1", "::1"), days)
    except pki.PkiError as error:
        raise FailedError(str(error)) from error
    _tell(made)


@group.command("issue", cls=Command)
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.argument("name")
@click.option(
    "--san", "sans", multiple=True, required=True, help="DNS name, URI or IP address; may be repeated."
)
@click.option("--relay", is_flag=True, help="For another relay instead of a transceiver.")
@_days_option(90)
def issue(folder: Path, name: str, sans: Sequence[str], relay: bool, days: int) -> None:
    """Make a transceiver's certificate (NAME.crt, NAME.key), signed by the CA in DIR.

    A DNS name or URI is what earshotd's [[transceivers]] tables know it by. Files have mode 0600, and
    none is overwritten. For tests and first steps.

    \b
    Examples:
      earshot pki issue /etc/earshot/pki voice-1 --san voice-1.example
      earshot pki issue /etc/earshot/pki relay-2 --relay --san relay-2.example
    """
    from control import pki

    usage = pki.Usage.RELAY if relay else pki.Usage.CLIENT
    try:
        made = pki.issue(folder, name, sans, days, usage)
    except pki.PkiError as error:
        raise FailedError(str(error)) from error
    _tell(made)


def _tell(made: Sequence[Path]) -> None:
    for path in made:
        click.echo(path)
