# SPDX-License-Identifier: Apache-2.0
"""Bearer tokens (RFC 6750): who may call, as RFC 9725, 4.7 has it."""

from __future__ import annotations

import hmac
import logging
from pathlib import Path

from transceiver.log import event

_SCHEME = "bearer "


class Tokens:
    """Those of a file, one a line; what begins with # is a comment. A file that has changed is read again.

    Raises:
        OSError: it cannot be read.
        ValueError: there is no token in it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._stat()
        self._tokens = _read(path)

    def allow(self, authorization: str | None) -> bool:
        """Whether an Authorization header holds one of them."""
        self._refresh()
        if authorization is None or not authorization.lower().startswith(_SCHEME):
            return False
        given = authorization[len(_SCHEME) :].strip().encode("utf-8", "surrogateescape")
        return any(hmac.compare_digest(given, token) for token in self._tokens)

    def _refresh(self) -> None:
        """A file that is gone or empty leaves the tokens as they were: half a change lets nobody in."""
        try:
            stamp = self._stat()
            if stamp != self._stamp:
                self._stamp, self._tokens = stamp, _read(self._path)
                event(logging.INFO, "tokens_read", count=len(self._tokens))
        except (OSError, ValueError) as error:
            event(logging.WARNING, "tokens_not_read", detail=str(error))

    def _stat(self) -> tuple[int, int, int]:
        stat = self._path.stat()
        return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _read(path: Path) -> list[bytes]:
    lines = (line.strip() for line in path.read_bytes().splitlines())
    tokens = [line for line in lines if line and not line.startswith(b"#")]
    if not tokens:
        raise ValueError(f"{path} holds no token")
    return tokens
