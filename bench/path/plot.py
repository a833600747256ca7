# SPDX-License-Identifier: Apache-2.0
"""Draws the result of `scripts/bench path` as SVG: CPU time a packet, on a logarithmic scale.

.venv/bin/python -m bench.path.plot path.json docs/images/path.svg
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

LEFT, RIGHT, TOP, BAR, GAP = 130, 130, 70, 16, 18
WIDTH = 880
COLOURS = ("#0369a1", "#7dd3fc")  # by number of flows, fewest first
LOWEST = 100.0
DECADES = (LOWEST, 1e3, 1e4, 1e5)
Row = dict[str, Any]


def draw(rows: Sequence[Row], family: int, size: int) -> str:
    """A bar for each candidate and number of flows, of one family and size."""
    shown = [row for row in rows if (row["family"], row["size"]) == (family, size)]
    names = list(dict.fromkeys(row["candidate"] for row in shown))
    asked = sorted({row["flows_asked"] for row in shown})
    top = max(decade for decade in DECADES if decade / 10 < max((row["ns"] for row in shown), default=1))

    def across(ns: float) -> float:
        share = math.log10(max(ns, LOWEST) / LOWEST) / math.log10(top / LOWEST)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    step = BAR * len(asked) + GAP
    bottom = TOP + step * len(names)
    title = f"CPU time a packet, IPv{family}, {size} bytes"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 50}" '
        'font-family="system-ui, sans-serif" font-size="13" role="img" aria-labelledby="t d">',
        f'<title id="t">{title}</title>',
        '<desc id="d">Bars of nanoseconds a packet by forwarder and number of flows, on a logarithmic scale; '
        "the figures are in the table beside it.</desc>",
        f'<rect width="{WIDTH}" height="{bottom + 50}" fill="#ffffff"/>',
        '<g fill="#0f172a">',
        f'<text x="{LEFT}" y="24" font-size="15" font-weight="600">{title}, everything included</text>',
    ]
    for number, flows in enumerate(asked):
        start = LEFT + number * 140
        parts.append(f'<rect x="{start}" y="36" width="12" height="12" fill="{COLOURS[number % 2]}"/>')
        parts.append(f'<text x="{start + 18}" y="47">{flows:,} flows</text>')
    for decade in (decade for decade in DECADES if decade <= top):
        x = across(decade)
        parts.append(f'<line x1="{x:.1f}" y1="{TOP - 8}" x2="{x:.1f}" y2="{bottom}" stroke="#cbd5e1"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{decade:,.0f} ns</text>')
    for place, name in enumerate(names):
        y = TOP + place * step
        middle = y + BAR * len(asked) / 2 + 4
        parts.append(f'<text x="{LEFT - 10}" y="{middle:.1f}" text-anchor="end">{escape(name)}</text>')
        for row in (row for row in shown if row["candidate"] == name):
            number = asked.index(row["flows_asked"])
            at, end = y + number * BAR, across(row["ns"])
            label = f"{row['ns']:,.0f}"
            if row["flows"] != row["flows_asked"]:
                label += f" ({row['flows']:,} flows)"
            parts.append(
                f'<rect x="{LEFT}" y="{at}" width="{end - LEFT:.1f}" height="{BAR - 2}" '
                f'fill="{COLOURS[number % 2]}"/>'
            )
            parts.append(f'<text x="{end + 6:.1f}" y="{at + BAR - 4}" font-size="12">{label}</text>')
    return "\n".join([*parts, "</g>", "</svg>", ""])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench.path.plot", description="Draws a result as SVG.")
    parser.add_argument("result", type=Path, help="JSON of scripts/bench path")
    parser.add_argument("picture", type=Path, help="SVG to be written")
    parser.add_argument("--family", type=int, default=4, help="(default: %(default)s)")
    parser.add_argument("--size", type=int, default=80, help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    rows = json.loads(options.result.read_text())["rows"]
    options.picture.write_text(draw(rows, options.family, options.size))


if __name__ == "__main__":
    main()
