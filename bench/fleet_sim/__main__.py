# SPDX-License-Identifier: Apache-2.0
"""Simulates a fleet larger than any machine here: `scripts/bench fleet-sim`, about half a minute, no root."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from bench.fleet_sim import assumptions, scenarios
from bench.fleet_sim.assumptions import AssumptionError
from bench.fleet_sim.fleets import FLEETS, SMALL, USUAL
from bench.fleet_sim.report import compared, lines, report


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point. Exit code 2: an assumption or a fleet cannot be used."""
    parser = argparse.ArgumentParser(prog="scripts/bench fleet-sim", description=__doc__)
    parser.add_argument(
        "--fleet",
        action="append",
        choices=FLEETS,
        help="one of the fleets; may be repeated (all but directory)",
    )
    parser.add_argument(
        "--assumptions", type=Path, default=assumptions.DEFAULT, help="figures from another file"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="another figure, for a trial"
    )
    parser.add_argument("--seed", type=int, default=1, help="of everything random (1)")
    parser.add_argument("--json", type=Path, help="where results go, beside the table")
    options = parser.parse_args(argv)
    try:
        changes = dict(_change(text) for text in options.set)
        figures, sources = assumptions.load(options.assumptions, changes)
    except (AssumptionError, OSError) as error:
        parser.error(str(error))
    found = []
    for name in options.fleet or USUAL:
        one = report(FLEETS[name], figures, scenarios.play(FLEETS[name], figures, options.seed))
        text = [*lines(one), *(compared(one) if name == SMALL.name else ())]
        print("\n".join(text), end="\n\n", flush=True)
        found.append(one)
    if options.json is not None:
        given = {
            name: {"value": getattr(figures, name), **sources[name]._asdict()} for name in assumptions.NAMES
        }
        result = {"seed": options.seed, "assumptions": given, "fleets": found}
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def _change(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError as error:
        raise AssumptionError(f"--set takes NAME=VALUE, not {text!r}") from error


if __name__ == "__main__":
    main()
