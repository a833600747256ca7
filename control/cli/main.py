# SPDX-License-Identifier: Apache-2.0
"""The root command: what there is, and what becomes of errors."""

from __future__ import annotations

import signal
from typing import Any

import click
from click.shell_completion import get_completion_class

from control.cli import (
    capture,
    check,
    datapath,
    drain,
    drops,
    fleet,
    flow,
    maps,
    pki,
    relay,
    session,
    top,
    trace,
    why,
)
from control.cli.options import Command, FailedError, NoDatapathError, write_exit_status
from control.errors import DatapathError

PROGRAM = "earshot"
# Loaded from fpath, click's script completes the first time and only registers itself the second.
_AFTER = {"zsh": f"\ncompdef _{PROGRAM}_completion {PROGRAM}\n"}


class Root(click.Group):
    """Turns what can go wrong into one line and an exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (DatapathError, PermissionError) as error:
            raise NoDatapathError(str(error)) from error
        except OSError as error:
            raise FailedError(str(error)) from error
        except ImportError as error:  # bcc is the system's, and may be missing
            raise NoDatapathError(f"{error}; see: earshot check") from error

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_exit_status(formatter)


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name=PROGRAM, prog_name=PROGRAM)
def cli() -> None:
    """Look at the relay on this host: its sessions, its flows, its counters.

    Everything is read from the maps in the kernel, where the relay keeps it.

    \b
    Examples:
      earshot check                            is this host fit?
      earshot flow list --client 198.51.100.7
      earshot session show Xk3f
      earshot stats -o json
    """


@cli.command("completion", cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    Examples:
      earshot completion bash > /etc/bash_completion.d/earshot
      earshot completion zsh > "${fpath[1]}/_earshot"
      earshot completion fish > ~/.config/fish/completions/earshot.fish
    """
    made = get_completion_class(shell)
    if made is None:
        raise click.UsageError(f"no completion for {shell}")
    click.echo(made(cli, {}, PROGRAM, f"_{PROGRAM.upper()}_COMPLETE").source() + _AFTER.get(shell, ""))


cli.add_command(capture.capture)
cli.add_command(check.check)
cli.add_command(datapath.group)
cli.add_command(drain.drain)
cli.add_command(drain.undrain)
cli.add_command(drops.drops)
cli.add_command(fleet.fleet)
cli.add_command(flow.group)
cli.add_command(maps.group)
cli.add_command(pki.group)
cli.add_command(relay.stats)
cli.add_command(relay.transceivers)
cli.add_command(relay.vips)
cli.add_command(session.group)
cli.add_command(top.top)
cli.add_command(trace.trace)
cli.add_command(why.why)


def main() -> None:
    """Entry point of `earshot`."""
    # A reader that has seen enough (head) ends us as it ends any other tool: without a word.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    cli(prog_name=PROGRAM)
