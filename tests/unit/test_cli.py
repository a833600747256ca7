# SPDX-License-Identifier: Apache-2.0
"""The command line itself: help, exit statuses, and what is said where."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from control.cli.main import cli


def commands(group: click.Group, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)
        else:
            yield (*path, name), command


COMMANDS = dict(commands(cli))
READS = [path for path, command in COMMANDS.items() if any(p.name == "form" for p in command.params)]
PINNED = [path for path, command in COMMANDS.items() if any(p.name == "pin_path" for p in command.params)]
ARGUMENTS = {
    ("capture",): ["x.pcapng"],
    ("flow", "show"): ["1"],
    ("session", "show"): ["aaaa"],
    ("why",): ["00" * 14],
    ("map", "dump"): ["x"],
    ("map", "get"): ["x", "1"],
}


def run(*argv: str, stdin: str = "", **environment: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, argv, input=stdin, env=environment)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_what_there_is() -> None:
    assert {" ".join(path) for path in COMMANDS} == {
        "capture",
        "check",
        "completion",
        "datapath reload",
        "datapath remove",
        "datapath status",
        "datapath upgrade",
        "drain",
        "drops",
        "fleet status",
        "flow list",
        "flow show",
        "map dump",
        "map get",
        "map list",
        "pki init",
        "pki issue",
        "session list",
        "session show",
        "stats",
        "top",
        "trace",
        "transceiver list",
        "undrain",
        "vip list",
        "why",
    }
    assert {" ".join(path) for path in set(COMMANDS) - set(READS)} == {
        "capture",
        "completion",
        "datapath reload",
        "datapath remove",
        "datapath upgrade",
        "drain",
        "undrain",
        "pki init",
        "pki issue",
    }


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_help_has_examples_and_exit_statuses(path: tuple[str, ...]) -> None:
    status, out, err = run(*path, "--help")
    assert (status, err) == (0, "")
    assert f"Examples:\n    earshot {' '.join(path)}" in out
    assert "no datapath: nothing is pinned" in out


def test_version() -> None:
    status, out, _ = run("--version")
    assert status == 0
    assert out.startswith("earshot, version ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    status, out, _ = run("completion", shell)
    assert status == 0
    assert f"_EARSHOT_COMPLETE={shell}_complete" in out


@pytest.mark.parametrize("path", PINNED, ids=" ".join)
def test_without_a_datapath_one_line_says_so(path: tuple[str, ...], tmp_path: Path) -> None:
    status, out, err = run(*path, *ARGUMENTS.get(path, []), "--pin-path", str(tmp_path / "none"))
    assert (status, out) == (3, "")
    assert err.startswith("Error: ")
    assert err.count("\n") == 1


def test_the_pin_path_may_come_from_the_environment(tmp_path: Path) -> None:
    _, _, err = run("datapath", "status", EARSHOT_PIN_PATH=str(tmp_path / "elsewhere"))
    assert "elsewhere" in err


@pytest.mark.parametrize(
    "argv",
    [
        ("flow", "show", "not-a-number"),
        ("flow", "show", "-1"),
        ("flow", "list", "--client", "198.51.100"),
        ("flow", "list", "--client", "198.51.100.7:0"),
        ("flow", "list", "-o", "yaml"),
        ("session", "show"),
        ("completion", "tcsh"),
        ("no-such-command",),
    ],
    ids=" ".join,
)
def test_wrong_usage(argv: tuple[str, ...]) -> None:
    status, out, err = run(*argv)
    assert (status, out) == (2, "")
    assert "Error: " in err


def test_what_is_not_a_bpf_file_system_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "flows_v1").touch()
    status, out, err = run("datapath", "remove", "--yes", "--pin-path", str(tmp_path))
    assert (status, out) == (1, "")
    assert "nothing is removed" in err
    assert (tmp_path / "flows_v1").exists()


def test_the_manual_names_every_command() -> None:
    manual = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    for path in COMMANDS:
        assert f"`earshot {' '.join(path)}" in manual


def test_every_read_has_a_schema_that_knows_all_its_keys() -> None:
    document = json.loads((Path(__file__).parents[2] / "docs" / "cli.schema.json").read_text())
    Draft202012Validator.check_schema(document)
    assert {"-".join(path) for path in READS} <= document["$defs"].keys()
    # Of these others are made, which close them, some with keys of their own. What maps hold, nothing tells.
    open_ones = {"flow", "session", "map-entry"}
    for name, schema in document["$defs"].items():
        for where, part in objects(schema, name):
            is_object = "object" in part.get("type", ()) or "allOf" in part
            is_open = part.get("$ref", "").rpartition("/")[2] in open_ones and "/allOf" not in where
            closed = {"additionalProperties", "unevaluatedProperties"} & part.keys()
            assert closed or name in open_ones or not (is_object or is_open), f"{where} may have any key"


def test_the_manual_has_every_key_of_the_schema() -> None:
    docs = Path(__file__).parents[2] / "docs"
    manual = (docs / "cli.md").read_text()
    schemas = json.loads((docs / "cli.schema.json").read_text())["$defs"]
    known = {key for _, part in objects(schemas, "") for key in part.get("properties", ())}
    assert not {key for key in known if f"`{key}`" not in manual}


def objects(schema: object, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object in a schema, and where it stands."""
    if isinstance(schema, dict):
        yield where, schema
        for key, part in schema.items():
            yield from objects(part, f"{where}/{key}")
    elif isinstance(schema, list):
        for part in schema:
            yield from objects(part, where)


def test_a_read_loads_nothing_that_it_has_no_use_of() -> None:
    """Each of these takes longer to load than half a million flows to read."""
    heavy = {"google.protobuf", "grpc", "pyroute2", "rich", "asyncio", "cryptography"}
    script = "import sys; import control.cli.main, control.pinned; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert not heavy & set(loaded.split())
