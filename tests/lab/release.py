# SPDX-License-Identifier: Apache-2.0
"""Another release of Earshot: its program and its daemon, made of this checkout by a few edits."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.lab.host import run

ROOT = Path(__file__).parents[2]
_START = """#!{python} -P
import sys
sys.path.insert(0, {folder!r})
from control.daemon import main
main(prog_name="earshotd")
"""


class Edit(NamedTuple):
    """In files of a pattern below the release's folder: every `old` becomes `new`, and it has to be there."""

    files: str
    old: str
    new: str


def make(folder: Path, edits: Sequence[Edit]) -> Path:
    """Makes a release in a folder; returns its earshotd. Its program is compiled if an edit is of it."""
    compiles = any(edit.files.startswith("bpf/") for edit in edits)
    left_out = ("__pycache__", *(["*.o"] if compiles else []))
    shutil.copytree(ROOT / "control", folder / "control", ignore=shutil.ignore_patterns(*left_out))
    shutil.copytree(ROOT / "bpf", folder / "bpf", ignore=shutil.ignore_patterns("__pycache__"))
    for edit in edits:
        paths = [path for path in folder.glob(edit.files) if edit.old in path.read_text()]
        assert paths, f"{edit.old!r} is nowhere in {edit.files}"
        for path in paths:
            path.write_text(path.read_text().replace(edit.old, edit.new))
    if compiles:
        _compile(folder)
    daemon = folder / "earshotd"
    daemon.write_text(_START.format(python=sys.executable, folder=str(folder)))
    daemon.chmod(0o755)
    return daemon


def _compile(folder: Path) -> None:
    """As scripts/build does, with the Python side of what both share."""
    clang = os.environ.get("CLANG", "clang-19")
    headers = f"/usr/include/{platform.machine()}-linux-gnu"
    flags = ["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-I", headers, "-I", str(folder / "bpf")]
    for source in (folder / "bpf").glob("*.bpf.c"):
        run([clang, *flags, "-c", str(source), "-o", str(folder / "control" / source.stem) + ".o"])
    program = folder / "control" / "relay.bpf.o"
    generated = run([sys.executable, str(folder / "bpf" / "generate_abi.py"), str(program)])
    (folder / "control" / "abi.py").write_text(generated)
