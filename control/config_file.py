# SPDX-License-Identifier: Apache-2.0
"""Where the daemon's settings stand on disk."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from control.errors import ConfigError

DEFAULT = Path("/etc/earshot/earshotd.toml")


def read(path: Path) -> dict[str, Any]:
    """What a TOML file holds. Raises ConfigError."""
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError("config", f"{path}: {error}") from error
