# SPDX-License-Identifier: Apache-2.0
"""Every command of the documentation is run, on a relay with a call; or it says why not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from control.cli.main import cli as earshot
from control.daemon import main as earshotd
from tests.docs.commands import FILES, ROOT, Command, in_blocks, in_text
from tests.docs.world import DAEMONS, World, world
from tests.lab.calls import call
from tests.lab.host import LabError
from tests.lab.relay_client import RelayClient
from transceiver.backends.agent import main as earshot_agent
from transceiver.main import main as earshot_transceiver

PROGRAMS: dict[str, click.Command] = {
    "earshot": earshot,
    "earshotd": earshotd,
    "earshot-agent": earshot_agent,
    "earshot-transceiver": earshot_transceiver,
}
# What is run: programs of ours, and those of the system that only look. What installs, fetches or changes
# a host has to say why it is not run here.
LOOKING = ("bpftool", "curl", "ethtool", "ip", "nstat", "scripts/build", "ss", "tc")
# What ends the calls is last.
ENDS = "earshot datapath remove"
BLOCKS = [command for file in FILES for command in in_blocks(file)]
RUN = sorted((each for each in BLOCKS if not each.reason), key=lambda each: each.text.startswith(ENDS))
NOT_RUN = [each for each in BLOCKS if each.reason]
SPANS = list({each.text: each for file in FILES for each in in_text(file)}.values())


@pytest.fixture(scope="module")
def host() -> Iterator[World]:
    with world() as made:
        yield made


@pytest.fixture(scope="module")
def with_call(host: World) -> Iterator[World]:
    """The same, with a call that is bound."""
    if "earshotd" not in host.running:
        host.start("earshotd")
    with (
        RelayClient(host.relay_target) as relay,
        relay.attach("voice") as attachment,
        call(host.site, attachment, 4) as made,
    ):
        made.bind(requests=5)
        made.up(b"\x80" + bytes(99))
        yield host


@pytest.mark.root
@pytest.mark.netns
@pytest.mark.parametrize("command", RUN, ids=str)
def test_runs(command: Command, request: pytest.FixtureRequest) -> None:
    program = re.sub(r"^(?:[A-Z_]+=\S+ )+", "", command.text).split()[0]
    assert program in (*PROGRAMS, *LOOKING), (
        f"{command}: {program} is not run by tests: write <!-- not run: REASON -->"
    )
    daemon = command.text.split()[0] in DAEMONS
    # What stands before the README's first daemon is run before there is one.
    first = next(each for each in RUN if each.text.split()[0] == "earshotd")
    early = RUN.index(command) <= RUN.index(first)
    target: World = request.getfixturevalue("host" if early else "with_call")
    try:
        if command.text.startswith(ENDS):
            target.stop("earshotd")
        if daemon:
            target.start(command.bare)
        else:
            target.run(command.text)
    except LabError as error:
        pytest.fail(
            f"{command}: does not work as it stands. Put it right, or write\n"
            f"<!-- not run: REASON --> in the line above its block.\n{error}"
        )


@pytest.mark.parametrize("command", NOT_RUN, ids=str)
def test_what_is_not_run_exists(command: Command) -> None:
    """A program of ours that is named there, and each of its flags."""
    assert len(command.reason) > 10, f"{command}: say why it is not run"
    assert not faults(command), f"{command}: {faults(command)}"


@pytest.mark.parametrize("command", SPANS, ids=str)
def test_what_the_text_names_exists(command: Command) -> None:
    assert not faults(command), f"{command}: {faults(command)}"


def faults(command: Command) -> list[str]:
    """What there is none of: files of the checkout, commands, flags."""
    words = re.sub(r"^(?:[A-Z_]+=\S+ )+", "", command.bare).split()
    if words[0].startswith(("scripts/", "vagrant/", "tests/")):
        return [] if (ROOT / words[0]).is_file() else [f"no file {words[0]}"]
    found: click.Command | None = PROGRAMS.get(words[0])
    if found is None:
        return []
    found_parameters = [*found.params]
    for word in words[1:]:
        if not isinstance(found, click.Group) or not re.fullmatch(r"[a-z][a-z-]*", word):
            break
        if word not in found.commands:
            return [f"no command {word}"]
        found = found.commands[word]
        found_parameters += found.params
    known = {flag for each in found_parameters for flag in (*each.opts, *each.secondary_opts)} | {
        "--help",
        "--version",
    }
    return [
        f"no flag {flag}"
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*", command.bare)
        if flag not in known
    ]


def test_the_documentation_has_commands() -> None:
    """That they are found: a change of how they are written must not leave them out unnoticed."""
    texts = {each.bare for each in RUN}
    assert {"earshotd", "earshot flow list", "earshot stats", "earshot datapath remove"} <= texts
    assert any(each.text.startswith("scripts/demo") for each in NOT_RUN)
    assert any(each.text.startswith("earshot session show") for each in SPANS)


SAMPLE = """
<!-- not run (scripts/demo): takes a minute -->
```sh
sudo -E scripts/demo --calls 3   # look
earshot stats \\
  -o json
# a comment
```

```console
# earshot vip list
VIP
$ false
```

Text, and `earshot flow list` in it.

    interfaces = ["eth0"]
    A=1 sudo scripts/test x

<!-- not run: there is none -->

    scripts/none
"""


def test_finding(tmp_path: Path) -> None:
    """All forms in which a command may stand."""
    file = tmp_path / "sample.md"
    file.write_text(SAMPLE)
    assert [(each.line, each.text, each.reason) for each in in_blocks(file, tmp_path)] == [
        (4, "scripts/demo --calls 3   # look", "takes a minute"),
        (5, "earshot stats -o json", ""),
        (11, "earshot vip list", ""),
        (13, "false", ""),
        (19, "A=1 scripts/test x", ""),
        (23, "scripts/none", "there is none"),
    ]
    assert [each.text for each in in_text(file, tmp_path)] == ["earshot flow list"]


def test_faults() -> None:
    """That something which there is not is found."""
    lines = ("earshot flow lst", "earshot flow list --sesion X", "scripts/nothing", "earshotd --vips x")
    assert all(faults(Command("", 0, line)) for line in lines)
    assert not faults(Command("", 0, "earshot flow list --session X -o json   # comment --none"))
