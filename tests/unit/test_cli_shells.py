# SPDX-License-Identifier: Apache-2.0
"""Completion in the shells themselves, loaded from where docs/cli.md puts it: what Tab makes of a line."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.services import BIN

PROMPT = "what now> "
PATIENCE = 60  # seconds; a command is started for each Tab, on a busy machine


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of somebody who has nothing set up, and a terminal that can do nothing special."""
    return {
        "HOME": str(tmp_path),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "TERM": "dumb",
        "LC_ALL": "C.UTF-8",
        "EARSHOT_PIN_PATH": str(tmp_path / "none"),
    }


def script(shell: str, file: Path, environment: dict[str, str]) -> None:
    """Puts a shell's script where it belongs."""
    file.parent.mkdir(parents=True)
    made = subprocess.run([BIN / "earshot", "completion", shell], env=environment, check=True, stdout=-1)
    file.write_bytes(made.stdout)


class Shell:
    """A shell on a terminal."""

    def __init__(self, argv: list[str], environment: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            argv, env=environment, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        os.close(slave)
        self._said = b""

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def until(self, text: str) -> None:
        """Reads until the shell, or what it runs, has said that."""
        deadline = time.monotonic() + PATIENCE
        while text.encode() not in self._said:
            assert time.monotonic() < deadline, f"no {text!r} in {self._said!r}"
            if select.select([self._master], [], [], 1)[0]:
                self._said += os.read(self._master, 65536)
        self._said = self._said.partition(text.encode())[2]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)


@contextlib.contextmanager
def shell(argv: list[str], environment: dict[str, str], setup: str) -> Iterator[Shell]:
    """One that has read its setup, with a prompt that does not stand in what is typed."""
    opened = Shell(argv, environment)
    try:
        opened.type(f"{setup}; PS1='{PROMPT[:2]}''{PROMPT[2:]}'\n")
        opened.until(PROMPT)
        yield opened
    finally:
        opened.close()


def assert_completes(opened: Shell) -> None:
    """Commands, options and what an option may be. What is made of the line is run, which shows it."""
    for typed, said in (
        ("earshot flo\t--help\n", "Usage: earshot flow [OPTIONS] COMMAND"),
        ("earshot flow sh\t--help\n", "Usage: earshot flow show [OPTIONS] FLOW_ID"),
        ("earshot top --so\tjit\t--interval 0\n", "Invalid value for '--interval'"),
    ):
        opened.type(typed)
        opened.until(said)
        opened.until(PROMPT)


def test_bash(tmp_path: Path, environment: dict[str, str]) -> None:
    file = tmp_path / "bash_completion.d" / "earshot"
    script("bash", file, environment)
    with shell(["bash", "--norc", "--noprofile", "-i"], environment, f"source {file}") as opened:
        assert_completes(opened)


def test_zsh(tmp_path: Path, environment: dict[str, str]) -> None:
    functions = tmp_path / "functions"
    script("zsh", functions / "_earshot", environment)
    setup = f"fpath=({functions} $fpath); autoload -Uz compinit; compinit -u -d {tmp_path}/dump"
    with shell(["zsh", "-f", "-i"], environment, setup) as opened:
        assert_completes(opened)


def test_fish(tmp_path: Path, environment: dict[str, str]) -> None:
    script("fish", tmp_path / ".config" / "fish" / "completions" / "earshot.fish", environment)

    def offered(line: str) -> dict[str, str]:
        """What Tab offers, and what it says of it."""
        said = subprocess.run(
            ["fish", "--private", "--command", f"complete --do-complete {line!r}"],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE,
        )
        return dict((*one.split("\t"), "")[:2] for one in said.stdout.splitlines())

    assert offered("earshot flo") == {"flow": "Flows: client addresses that are bound to..."}
    assert offered("earshot flow sh").keys() == {"show"}
    assert offered("earshot top --so").keys() == {"--sort"}
    assert {"jitter", "loss"} < offered("earshot top --sort ").keys()
