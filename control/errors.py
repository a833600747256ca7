# SPDX-License-Identifier: Apache-2.0
"""What can go wrong, as a tree.

    EarshotError
    ├── ConfigError         a setting is wrong; names the field
    ├── DatapathError       the program or its maps cannot be loaded, attached or opened
    │   ├── OtherVersionError  maps are pinned that this version does not know, or not all that it needs
    │   └── MapFullError    a map has no room left
    ├── UnreachableError    no resolved next hop towards an address
    └── RequestError        a caller's request is refused (control/requests.py); becomes a gRPC status

Messages are for an operator: what, where, and what to do about it. They never hold a pwd.
"""

from __future__ import annotations


class EarshotError(Exception):
    """Root of all errors that Earshot raises on purpose."""


class ConfigError(EarshotError):
    """A setting is missing or wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class DatapathError(EarshotError):
    """The kernel's side cannot be set up or read."""


class OtherVersionError(DatapathError):
    """What is pinned is another version's."""


class MapFullError(DatapathError):
    """A map has no room for another entry."""


class UnreachableError(EarshotError):
    """There is no route, or no neighbour that answers, on the way to an address."""
