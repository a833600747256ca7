# SPDX-License-Identifier: Apache-2.0
"""What a check comes to."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Status(StrEnum):
    OK = "ok"
    WARNING = "warning"  # it runs, but something may be missing or slow
    FAILED = "failed"  # earshotd cannot run, or packets would be lost


class Finding(NamedTuple):
    """One thing that was looked at. `cure` says what to do unless it is ok."""

    name: str
    status: Status
    found: str
    cure: str = ""


def ok(name: str, found: str) -> Finding:
    return Finding(name, Status.OK, found)


def warning(name: str, found: str, cure: str) -> Finding:
    return Finding(name, Status.WARNING, found, cure)


def failed(name: str, found: str, cure: str) -> Finding:
    return Finding(name, Status.FAILED, found, cure)
