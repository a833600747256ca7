# SPDX-License-Identifier: Apache-2.0
"""Routable ufrags at a relay: the fleet's keys for the XDP program, and the numbers of their sessions.

The program reads such ufrags for requests that nobody has registered; here it is done for registrations, so
that a session has the same number wherever it is bound.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from control import abi
from control.config import FleetKeyFile
from control.errors import ConfigError
from control.hmac_keys import key_states
from control.libbpf import Array
from control.requests import Code, Credential, RequestError
from fleet import ufrag
from fleet.key import FleetKey, FleetKeyError, read_secret


def read_keys(files: Iterable[FleetKeyFile]) -> dict[int, FleetKey]:
    """By number, from files of 64 hexadecimal digits. Raises ConfigError."""
    try:
        return {number: FleetKey.of(read_secret(path)) for number, path in files}
    except FleetKeyError as error:
        raise ConfigError("fleet_keys", str(error)) from error


def key_record(key: FleetKey) -> Array:
    """A key as the program has it."""
    record = np.zeros(1, abi.FLEET_KEY)
    record["used"], record["secret"] = 1, key_states([key.secret])[0][0]
    record["mask"] = struct.unpack("<QQ", key.mask)
    return record


def session_of(credentials: Sequence[Credential], keys: Mapping[int, FleetKey]) -> int | None:
    """The number that a session has by its ufrags; None: they are not routable.

    Raises:
        RequestError: INVALID_ARGUMENT, they are of two sessions, or a pwd is not the one that follows: relays
            that were told nothing would not let its clients in.
    """
    number: int | None = None
    for index, credential in enumerate(credentials):
        said = ufrag.read(credential.ufrag, keys)
        if said is not None and credential.pwd and credential.pwd.decode() != said.pwd:
            message = "is not the one that follows from the ufrag"
            raise RequestError(Code.INVALID_ARGUMENT, message, f"credentials[{index}].pwd")
        found = 1 << abi.SESSION_DERIVED_BIT | said.session if said is not None else None
        if index and found != number:
            raise RequestError(
                Code.INVALID_ARGUMENT, "is of another session than the first", f"credentials[{index}].ufrag"
            )
        number = found
    return number
