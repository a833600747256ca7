# SPDX-License-Identifier: Apache-2.0
"""Whether what `earshot` prints is as docs/cli.schema.json says."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

SCHEMA = Path(__file__).parents[2] / "docs" / "cli.schema.json"


@cache
def _document() -> Any:
    return json.loads(SCHEMA.read_text())


def assert_fits(command: str, document: Any) -> None:
    """`command`: as typed, without options: ``flow list``."""
    schema = {"$defs": _document()["$defs"], "$ref": f"#/$defs/{command.replace(' ', '-')}"}
    problems = [
        f"{'/'.join(map(str, problem.absolute_path))}: {problem.message}"
        for problem in Draft202012Validator(schema).iter_errors(document)
    ]
    assert not problems, "\n".join(problems[:5])
