# SPDX-License-Identifier: Apache-2.0
"""Where the directory's Redis is, as it is configured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from control.errors import ConfigError

PORT = 6379


@dataclass(frozen=True, slots=True)
class Target:
    """Where Redis is: a checked URL, and files with what does not belong into one."""

    host: str
    port: int
    database: int
    username: str | None
    tls: bool
    password_file: Path | None = None
    ca_file: Path | None = None

    @classmethod
    def of(cls, url: str, password_file: Path | None = None, ca_file: Path | None = None) -> Target:
        """Raises ConfigError."""
        parts = _split(url)
        database = parts.path.strip("/")
        if database and not (database.isascii() and database.isdigit()):
            raise ConfigError("directory", f"{database!r} is not the number of a database")
        if ca_file is not None and parts.scheme != "rediss":
            raise ConfigError("directory_ca", "the directory is not a rediss:// one")
        username = unquote(parts.username) if parts.username else None
        return cls(
            parts.hostname or "",
            parts.port or PORT,
            int(database or 0),
            username,
            parts.scheme == "rediss",
            password_file,
            ca_file,
        )

    def password(self) -> str | None:
        """What the file holds. Raises ConfigError."""
        if self.password_file is None:
            return None
        try:
            return self.password_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError("directory_password_file", f"{self.password_file}: {error}") from error

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.tls else 'redis'}://{host}:{self.port}/{self.database}"


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError as error:
        raise ConfigError("directory", str(error)) from None
    if parts.scheme not in {"redis", "rediss"} or not parts.hostname or not port_is_fine:
        raise ConfigError("directory", "is not redis://HOST:PORT/DATABASE or rediss://HOST:PORT/DATABASE")
    if parts.password:
        raise ConfigError("directory", "holds a password, which others can see: use directory_password_file")
    if parts.query or parts.fragment:
        raise ConfigError("directory", "has a query or a fragment, which mean nothing here")
    return parts
