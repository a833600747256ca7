# SPDX-License-Identifier: Apache-2.0
"""Records of the maps as JSON shows them: addresses and enums as text, and nothing that is secret.

What a field is follows from its dtype in control/abi.py: 16 bytes are an address, 6 a MAC, `S` is text. What
no dtype tells, that a number is one of an enum, or that nobody may see it, stands here, by record and field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from control import abi
from control.addresses import from_bytes

HIDDEN_TEXT = "hidden"

_USED = 1 << 31
_SLOT_NUMBER = (1 << abi.SlotBit.NUMBER_BITS) - 1
_STATE_MASK = (1 << abi.FLOW_STATE_BITS) - 1

Convert = Callable[[Any], Any]


def plain(records: NDArray[Any]) -> list[Any]:
    """Each of the records as JSON shows it: a number, a text, or an object by field."""
    convert = _converter(records.dtype)
    return [convert(value) for value in records.tolist()]


def _raw(value: Any) -> str:
    """Bytes that this version has no type for."""
    return bytes(value).hex()


@cache
def _converter(dtype: np.dtype[Any]) -> Convert:
    """What makes JSON of what `tolist()` makes of one element."""
    whole = _WHOLE.get(dtype)
    if whole is not None:
        return whole
    if dtype.subdtype is not None:
        one = _converter(dtype.subdtype[0])
        return lambda values: [one(value) for value in values]
    if dtype.names is not None:
        return _object(dtype)
    if dtype.kind == "V":
        return {16: _address, 6: _mac}.get(dtype.itemsize, _raw)
    return _text if dtype.kind == "S" else int


def _object(dtype: np.dtype[Any]) -> Convert:
    """By field. What a field's own function makes an object of takes the field's place."""
    special = _FIELDS.get(dtype, {})
    fields = [
        (name, special.get(name) or _converter(dtype[name]), name in special) for name in dtype.names or ()
    ]

    def convert(values: Any) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for (name, of_field, is_special), value in zip(fields, values, strict=True):
            shown = of_field(value)
            if is_special and isinstance(shown, dict):
                made.update(shown)
            else:
                made[name] = shown
        return made

    return convert


def _address(raw: bytes) -> str | None:
    """None: it is not set."""
    return str(from_bytes(bytes(raw))) if any(raw) else None


def _mac(raw: bytes) -> str | None:
    return bytes(raw).hex(":") if any(raw) else None


def _text(raw: bytes) -> str:
    return raw.decode("ascii", "replace")


def _hidden(value: Any) -> str:
    return HIDDEN_TEXT


def _name_of(kind: type[IntEnum]) -> Convert:
    """A member's name; a number that has none stays a number."""
    names = {member.value: member.name.lower() for member in kind}
    return lambda value: names.get(value, value)


def _flags(value: int) -> dict[str, Any]:
    clock = (value >> abi.SESSION_CLOCK_SHIFT) or abi.CLOCK_USUAL
    return {
        "flags": [flag.name.lower() for flag in abi.SessionFlag if value & flag],
        "clock_rate": clock * abi.CLOCK_UNIT,
    }


def _state(word: int) -> dict[str, Any]:
    return {
        "state": _name_of(abi.FlowState)(word & _STATE_MASK),
        "bound_at_seconds": word >> abi.FLOW_STATE_BITS,
    }


def _bucket(value: Any) -> dict[str, Any]:
    words = np.asarray(value[0]).tolist()
    spilt, removed = words[abi.BucketWord.SPILT], words[abi.BucketWord.REMOVED]
    return {
        "locked": bool(spilt & abi.BucketBit.LOCKED),
        "spilt": (spilt & abi.BucketBit.SPILT_MASK) // abi.BucketBit.SPILT_ONE,
        "removed": (removed & abi.BucketBit.SPILT_MASK) // abi.BucketBit.SPILT_ONE,
        "flows": [word & _SLOT_NUMBER for word in words[abi.BucketWord.FIRST_SLOT :] if word & _USED],
    }


def _prefix(value: Any) -> str:
    bits, address = value[0], from_bytes(bytes(value[1]))
    return f"{address}/{bits - 96 if address.version == 4 else bits}"


def _only(value: Any) -> str:
    return _text(value[0])


# By record: those that are shown as something else than an object of their fields.
_WHOLE: Mapping[np.dtype[Any], Convert] = {
    abi.UFRAG_KEY: _only,
    abi.PREFIX_KEY: _prefix,
    abi.BUCKET: _bucket,
}
_FIELDS: Mapping[np.dtype[Any], Mapping[str, Convert]] = {
    abi.LAYOUT: {"hash_key": _hidden},
    abi.LOCAL: {"kind": _name_of(abi.LocalKind)},
    abi.HOP: {"resolved": _name_of(abi.HopState)},
    abi.SESSION: {"inner": _hidden, "outer": _hidden, "flags": _flags},
    abi.FLOW: {"state": _state},
}
