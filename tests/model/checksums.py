# SPDX-License-Identifier: Apache-2.0
"""The Internet checksum (RFC 1071), and what is left of a wrong one.

One's complement addition of 16-bit words is addition modulo 65535, in which 0 is written
0x0000 or 0xffff. Of a header whose checksum is right, all words add up to 0. If they add up to
something else, that is the *error*, and whoever changes a header as RFC 1624 has it (by what changed)
leaves the error as it was: a damaged packet arrives as damaged as it came.
"""

from __future__ import annotations

MODULUS = 0xFFFF


def total(data: bytes) -> int:
    """The one's complement sum of the words of data, as 0 to 65534; an odd byte is padded by a zero."""
    padded = data + bytes(len(data) % 2)
    return sum(padded[at] << 8 | padded[at + 1] for at in range(0, len(padded), 2)) % MODULUS


def with_error(error: int, others: int) -> int:
    """The checksum that lets a header add up to an error, its other words adding up to others.

    Written as RFC 1071's procedure does: 0 is 0x0000.
    """
    return (error - others) % MODULUS
