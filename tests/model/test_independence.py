# SPDX-License-Identifier: Apache-2.0
"""The model is worth something only as long as it shares nothing with what it is compared with."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_the_model_imports_itself_and_the_standard_library_alone() -> None:
    for path in HERE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.startswith("tests.model") or name.partition(".")[0] in sys.stdlib_module_names
