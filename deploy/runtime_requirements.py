# SPDX-License-Identifier: Apache-2.0
"""Prints the part of requirements.lock that running Earshot takes: not what developing it does.

Which that is follows from the metadata of what is installed beside this script, by the same lock. Nothing is
resolved anew, so a package or an image holds the very versions that the tests ran with.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCK = Path(__file__).parents[1] / "requirements.lock"


def closure(root: str) -> set[str]:
    """Canonical names of all that a distribution needs on this platform, itself excepted."""
    found: set[str] = set()
    waiting = [(root, frozenset[str]())]
    while waiting:
        name, extras = waiting.pop()
        for text in requires(name) or ():
            need = Requirement(text)
            if need.marker and not any(need.marker.evaluate({"extra": extra}) for extra in extras or {""}):
                continue
            needed = canonicalize_name(need.name)
            if needed not in found or need.extras:
                found.add(needed)
                waiting.append((needed, frozenset(need.extras)))
    return found


def blocks(lock: str) -> dict[str, str]:
    """The lock's entries with their hashes, by canonical name; some have one for each range of Pythons."""
    entries: dict[str, str] = {}
    for entry in re.findall(r"^(?:[A-Za-z0-9].*\n(?:[ \t].*\n)*)", lock, re.MULTILINE):
        name = canonicalize_name(re.split(r"[=\[; ]", entry, maxsplit=1)[0])
        entries[name] = entries.get(name, "") + entry
    return entries


def main() -> None:
    """Prints it; ends with 1 if the lock misses something."""
    locked = blocks(LOCK.read_text())
    try:
        names = sorted(closure("earshot"))
    except PackageNotFoundError as error:
        sys.exit(f"{error}: run scripts/setup")
    missing = [name for name in names if name not in locked]
    if missing:
        sys.exit(f"not in {LOCK.name}: {', '.join(missing)}")
    sys.stdout.write("".join(locked[name] for name in names))


if __name__ == "__main__":
    main()
