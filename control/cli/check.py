# SPDX-License-Identifier: Apache-2.0
"""`earshot check`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import click

from control import config_file, settings
from control.check.finding import Finding, Status
from control.cli.options import DEFAULT_PIN_PATH, EXIT_FAILED, PATH, Command, form_option
from control.cli.output import write_one
from control.errors import ConfigError


@click.command("check", cls=Command)
@click.option(
    "--config",
    "config_path",
    type=PATH,
    metavar="FILE",
    help=f"earshotd's configuration.  [default: {config_file.DEFAULT}, if it is there]",
)
@click.option(
    "--attach/--no-attach",
    default=True,
    show_default=True,
    help="Attach the program to links without one for a moment, to see whether the driver can. "
    "Some drivers restart their queues then: traffic of such a link pauses.",
)
@form_option
@click.pass_context
def check(ctx: click.Context, config_path: Path | None, attach: bool, form: str) -> None:
    """Tell whether this host is fit to be a relay.

    What is not in order comes with what to do about it. Without a configuration, only what concerns
    the host as a whole is looked at. The environment (EARSHOT_...) counts as it does for earshotd.

    \b
    Examples:
      earshot check
      earshot check --config /etc/earshot/earshotd.toml
      earshot check -o json | jq '.findings[] | select(.status != "ok")'
    """
    write = _write_json if form == "json" else _write_lines
    if not write(_findings(config_path, attach)):
        ctx.exit(EXIT_FAILED)


def _findings(path: Path | None, attach: bool) -> Iterator[Finding]:
    from control.check.run import run  # not before it is needed: pyroute2 is slow to load

    if path is None and config_file.DEFAULT.exists():
        path = config_file.DEFAULT
    config = None
    if path is not None:
        try:
            config = settings.build(config_file.read(path), os.environ, {})
        except ConfigError as error:
            yield Finding("configuration", Status.FAILED, str(error), f"correct {error.field!r} in {path}")
        else:
            yield Finding("configuration", Status.OK, str(path))
    pin_path = Path(os.environ.get(settings.environment_name("pin_path"), DEFAULT_PIN_PATH))
    yield from run(config, config.pin_path if config else pin_path, attach=attach)


def _write_json(found: Iterator[Finding]) -> bool:
    findings = [finding._asdict() for finding in found]
    fit = all(finding["status"] != Status.FAILED for finding in findings)
    write_one({"fit": fit, "findings": findings}, (), "json")
    return fit


def _write_lines(found: Iterator[Finding]) -> bool:
    """Writes findings as they come; returns whether none has failed, as _write_json does."""
    counts = dict.fromkeys(Status, 0)
    for finding in found:
        counts[finding.status] += 1
        click.echo(f"{finding.status:8}{finding.name}: {finding.found}")
        if finding.cure:
            click.echo(f"{'':8}-> {finding.cure}")
    click.echo(", ".join(f"{count} {status}" for status, count in counts.items()), err=True)
    return not counts[Status.FAILED]
