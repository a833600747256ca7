# SPDX-License-Identifier: Apache-2.0
"""Writes the table of reasons in bpf/README.md from control/reasons.py.

python bpf/generate_reasons.py
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, it sees bpf/ alone

from control.reasons import readme_rows  # noqa: E402  # after the path

README = ROOT / "bpf" / "README.md"
_HEADER = "| reason | action | meaning | usual cure |"


def with_rows(text: str) -> str:
    """The README with today's rows; what stands behind the table stays.

    Raises:
        ValueError: it has no such table.
    """
    lines = text.splitlines()
    first = lines.index(_HEADER) + 2
    last = next(
        (number for number in range(first, len(lines)) if not lines[number].startswith("|")), len(lines)
    )
    return "\n".join([*lines[:first], *readme_rows(), *lines[last:]]) + "\n"


if __name__ == "__main__":
    README.write_text(with_rows(README.read_text()))
