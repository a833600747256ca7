# SPDX-License-Identifier: Apache-2.0
"""Finds the commands in the documentation.

A command is a line of a fenced block that says `sh`, `bash` or `console` (there, lines with a prompt), or a
line of an indented block that begins with one of our programs. It is run by the test, unless the line above
its block says

    <!-- not run: REASON -->                      of the whole block
    <!-- not run (scripts/demo, pip): REASON -->  of the lines that begin so, behind a sudo

and a line may be continued by a backslash. Spans of code in the text, `earshot flow list` for one, are
commands too: they are not run, but have to be ones that there are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "bpf/README.md", *ROOT.glob("docs/**/*.md")]
)
PROGRAMS = ("earshotd", "earshot", "earshot-transceiver", "earshot-agent")
_SHELLS = ("sh", "bash", "shell")
# How a command in an indented block begins; other such blocks are configuration, or what is printed.
_COMMAND = re.compile(
    r"(sudo |[A-Z_]+=\S+ |scripts/|vagrant/|tests/fuzz/|deploy/|cd |vagrant |bash |uv |pip |python3? |"
    r"\.venv/|apt(-get)? |systemctl |curl |"
    rf"({'|'.join(PROGRAMS)})( |$))"
)
_MARK = re.compile(r"<!--\s*not run(?:\s*\((?P<prefixes>[^)]*)\))?\s*:\s*(?P<reason>.*?)\s*-->")
_SPAN = re.compile(r"`([^`\n]+)`")
_PROMPT = re.compile(r"[$#] ")


@dataclass(frozen=True)
class Command:
    """One of them, and where it stands."""

    file: str
    line: int
    text: str  # as a shell takes it; without prompt and without sudo
    reason: str = ""  # why it is not run

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.bare}"

    @property
    def bare(self) -> str:
        """Without a comment."""
        return self.text.partition(" #")[0].strip()


def in_blocks(path: Path, root: Path = ROOT) -> Iterator[Command]:
    """Commands of fenced and of indented blocks."""
    name = str(path.relative_to(root))
    lines = path.read_text().splitlines()
    mark: re.Match[str] | None = None
    fence: str | None = None  # the language of the block that we are in
    after_text = False  # an indented line behind text goes on with it
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if line.lstrip().startswith("```"):
            if fence is not None:
                fence = mark = None
            else:
                fence = line.strip().strip("`").strip()
            continue
        text = ""
        if fence is None:
            if not line.strip():
                after_text = False
            elif line.startswith("    ") and not after_text:
                text = line.strip() if _COMMAND.match(line.strip()) else ""
            else:
                mark = _MARK.search(line) or None
                after_text = mark is None
        elif fence == "console":
            text = line[2:] if _PROMPT.match(line) else ""
        elif fence in _SHELLS:
            text = "" if line.strip().startswith("#") else line.strip()
        if not text:
            continue
        first = number
        while text.endswith("\\") and number < len(lines):
            text = text[:-1].rstrip() + " " + lines[number].strip()
            number += 1
        text = re.sub(r"^((?:[A-Z_]+=\S+ )*)sudo (?:-\S+ )*", r"\1", text)
        yield Command(name, first, text, _reason(mark, text))


def in_text(path: Path, root: Path = ROOT) -> Iterator[Command]:
    """Spans of code that begin with one of our programs."""
    name = str(path.relative_to(root))
    fenced = False
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        if fenced or line.startswith("    "):
            continue
        for text in _SPAN.findall(line.replace("\\|", "|")):
            text = re.sub(r"^sudo ", "", text)
            if text.partition(" ")[0] in PROGRAMS or re.match(r"(scripts|vagrant)/[a-z-]+( |$)", text):
                yield Command(name, number, text)


def _reason(mark: re.Match[str] | None, text: str) -> str:
    if mark is None:
        return ""
    prefixes = [prefix.strip() for prefix in (mark["prefixes"] or "").split(",") if prefix.strip()]
    # Variables may stand before it.
    bare = re.sub(r"^(?:[A-Z_]+=\S+ )+", "", text)
    if prefixes and not any(bare.startswith(prefix) for prefix in prefixes):
        return ""
    return mark["reason"]
