# SPDX-License-Identifier: Apache-2.0
"""The result of `scripts/bench path` as the tables of docs/performance-path.md.

.venv/bin/python -m bench.path.table path.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def costs(rows: Sequence[Row]) -> Iterator[str]:
    """Rates and CPU time."""
    yield "| | IP | bytes | flows | packets/s | CPUs feeding | lost | ns | of it hop | net ns | to blind |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        yield (
            f"| {row['candidate']} | {row['family']} | {row['size']:,} | {row['flows']:,} | {row['pps']:,} | "
            f"{row['cpus_feeding']} | {row['loss']:.2%} | {row['ns']:,.0f} | {row['hop_ns']:,.0f} | "
            f"{row['net_ns']:,.0f} | {row['ratio']:.2f} |"
        )


def trips(rows: Sequence[Row]) -> Iterator[str]:
    """Round trips, and what they are more than without a relay."""
    yield (
        "| | IP | bytes | flows | idle p50 | p99 | added p50 | p99 | half load p50 | p99 | added p50 | p99 |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        figures = " | ".join(
            f"{row[load][name]:,.1f}" if row["net_ns"] or "added" not in name else ""
            for load in ("idle", "half")
            for name in ("p50", "p99", "added_p50", "added_p99")
        )
        yield f"| {row['candidate']} | {row['family']} | {row['size']:,} | {row['flows']:,} | {figures} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench.path.table", description="Prints a result as tables.")
    parser.add_argument("result", type=Path, help="JSON of scripts/bench path")
    options = parser.parse_args(arguments)
    rows = json.loads(options.result.read_text())["rows"]
    print("\n".join([*costs(rows), "", *trips(rows)]))


if __name__ == "__main__":
    main()
