# SPDX-License-Identifier: Apache-2.0
"""Records of the maps as the command line shows them: addresses and enums as text, nothing that is secret.

What a field is follows from its dtype in control/abi.py: 16 bytes are an address, 6 a MAC, `S` is text. What
no dtype tells, that a number is one of an enum, or that nobody may see it, stands here, by record and field.
Records come as arrays, some thousands at a time, and so does what is made of them (control/cli/fields.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from control import abi
from control.addresses import from_bytes
from control.cli import address_cells, cells
from control.cli.fields import Arrays, Field, Numbers, Objects, Same, Spelled, Texts

Values = NDArray[Any]
HIDDEN = Same("hidden")

_USED = 1 << 31
_SLOT_NUMBER = (1 << abi.SlotBit.NUMBER_BITS) - 1
_STATE_MASK = (1 << abi.FLOW_STATE_BITS) - 1


def shown(values: Values) -> Field:
    """An element of each row, or as many as there are columns: numbers, texts, objects by field."""
    if values.ndim > 1:
        rows, length = values.shape
        return Arrays(shown(values.reshape(-1)), rows, length)
    whole = _WHOLE.get(values.dtype)
    if whole is not None:
        return whole(values)
    if values.dtype.names is not None:
        return _object(values)
    if values.dtype.kind == "V":
        return {16: _address, 6: _mac}.get(values.dtype.itemsize, _raw)(values)
    return Texts(cells.raw(values)) if values.dtype.kind == "S" else Numbers(values)


def _object(values: Values) -> Objects:
    """By field. What a field's own function makes several of takes the field's place."""
    special = _FIELDS.get(values.dtype, {})
    made: dict[str, Field] = {}
    for name in values.dtype.names or ():
        of_field = special.get(name, shown)(values[name])
        if isinstance(of_field, Mapping):
            made.update(of_field)
        else:
            made[name] = of_field
    return Objects(made)


def _address(values: Values) -> Field:
    """Null where it is not set."""
    return Texts(address_cells.addresses(values), _is_set(values))


def _mac(values: Values) -> Field:
    return Texts(address_cells.macs(values), _is_set(values))


def _raw(values: Values) -> Field:
    """Bytes that this version has no type for."""
    return Texts(address_cells.hexadecimal(values))


def _is_set(values: Values) -> NDArray[np.bool_]:
    octets = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), values.itemsize)
    return np.asarray(octets.any(axis=1))


def _hidden(values: Values) -> Field:
    return HIDDEN


def _name_of(kind: type[IntEnum]) -> Callable[[Values], Field]:
    """A member's name; a number that has none stays a number."""
    names = {member.value: member.name.lower() for member in kind}
    return lambda values: Spelled(values, lambda value: names.get(value, value))


def _session_flags(values: Values) -> Mapping[str, Field]:
    clock = values >> np.uint16(abi.SESSION_CLOCK_SHIFT)
    return {
        "flags": Spelled(values, _flags),
        "clock_rate": Numbers(np.where(clock, clock, abi.CLOCK_USUAL).astype(np.uint32) * abi.CLOCK_UNIT),
    }


def _flags(value: int) -> list[str]:
    return [flag.name.lower() for flag in abi.SessionFlag if value & flag]


def _state(values: Values) -> Mapping[str, Field]:
    return {
        "state": _name_of(abi.FlowState)(values & np.uint32(_STATE_MASK)),
        "bound_at_seconds": Numbers(values >> np.uint32(abi.FLOW_STATE_BITS)),
    }


def _bucket(values: Values) -> Field:
    words = values["words"]
    slots = words[:, abi.BucketWord.FIRST_SLOT :]
    counts = {
        name: (words[:, word] & np.uint32(abi.BucketBit.SPILT_MASK)) // np.uint32(abi.BucketBit.SPILT_ONE)
        for name, word in (("spilt", abi.BucketWord.SPILT), ("removed", abi.BucketWord.REMOVED))
    }
    return Objects(
        {
            "locked": Spelled((words[:, abi.BucketWord.SPILT] & np.uint32(abi.BucketBit.LOCKED)) != 0, bool),
            **{name: Numbers(count) for name, count in counts.items()},
            "flows": Arrays(
                Numbers((slots & np.uint32(_SLOT_NUMBER)).reshape(-1)),
                len(slots),
                slots.shape[1],
                (slots & np.uint32(_USED)) != 0,
            ),
        }
    )


def _prefix(values: Values) -> Field:
    return Texts(cells.texts(_prefix_text(bits, bytes(raw)) for bits, raw in values.tolist()))


def _prefix_text(bits: int, raw: bytes) -> bytes:
    address = from_bytes(raw)
    return f"{address}/{bits - 96 if address.version == 4 else bits}".encode()


def _ufrag(values: Values) -> Field:
    return shown(values["ufrag"])


# By record: those that are shown as something else than an object of their fields.
_WHOLE: Mapping[np.dtype[Any], Callable[[Values], Field]] = {
    abi.UFRAG_KEY: _ufrag,
    abi.PREFIX_KEY: _prefix,
    abi.BUCKET: _bucket,
}
_FIELDS: Mapping[np.dtype[Any], Mapping[str, Callable[[Values], Field | Mapping[str, Field]]]] = {
    abi.LAYOUT: {"hash_key": _hidden},
    abi.LOCAL: {"kind": _name_of(abi.LocalKind)},
    abi.HOP: {"resolved": _name_of(abi.HopState)},
    abi.SESSION: {"inner": _hidden, "outer": _hidden, "flags": _session_flags},
    abi.FLOW: {"state": _state},
}
