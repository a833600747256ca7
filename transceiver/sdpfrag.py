# SPDX-License-Identifier: Apache-2.0
"""SDP fragments of ICE (application/trickle-ice-sdpfrag, RFC 8840, 9): read and written, no I/O.

Of a client's fragment only the credentials count: candidates are of no use to an endpoint that sends
nothing to an address that a client names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from transceiver.agent import Credentials
from transceiver.errors import PatchError
from transceiver.sdp import LINE, MAX_LINES, PWD, UFRAG, values


def read_credentials(fragment: str) -> Credentials | None:
    """The client's credentials that a fragment names; None if it names none.

    Raises:
        PatchError: 400 if it is not a fragment, 422 if it asks for more than a fragment may.
    """
    lines = [line for line in fragment.replace("\r\n", "\n").split("\n") if line]
    if not lines or len(lines) > MAX_LINES:
        raise PatchError(400, f"a fragment has 1 to {MAX_LINES} lines")
    if lines[0] == "v=0":
        raise PatchError(422, "a session's media cannot be negotiated anew: end it, and offer again")
    for number, line in enumerate(lines, 1):
        if not (LINE.fullmatch(line) and line[0] in "am"):
            raise PatchError(400, f"not a fragment: line {number} is neither a=value nor m=value")
    ufrag = _only(lines, "ice-ufrag", UFRAG)
    pwd = _only(lines, "ice-pwd", PWD)
    if ufrag is None and pwd is None:
        return None
    if ufrag is None or pwd is None:
        raise PatchError(400, "ice-ufrag and ice-pwd belong together (RFC 8839, 5.4)")
    return Credentials(ufrag, pwd)


def restart_answer(answer: str, credentials: Credentials) -> str:
    """What answers an ICE restart (RFC 9725, 4.3.3): of the session's answer, the part that concerns ICE."""
    head, *sections = answer.split("\r\nm=")
    lines = sections[0].split("\r\n")  # of the bundle's first, the others have no candidates
    kind, _port, rest = lines[0].split(" ", 2)
    return "".join(
        f"{line}\r\n"
        for line in (
            "a=ice-lite",
            *_those(head.split("\r\n"), "a=group:BUNDLE"),
            f"m={kind} 9 {rest}",  # a fragment's port says nothing (RFC 8840, 4.4)
            *_those(lines, "a=mid:"),
            f"a=ice-ufrag:{credentials.ufrag}",
            f"a=ice-pwd:{credentials.pwd}",
            *_those(lines, "a=candidate:"),
            "a=end-of-candidates",
        )
    )


def _those(lines: Sequence[str], prefix: str) -> list[str]:
    return [line for line in lines if line.startswith(prefix)]


def _only(lines: Sequence[str], attribute: str, pattern: re.Pattern[str]) -> str | None:
    """The value that all its occurrences share."""
    found = set(values(lines, attribute))
    if not all(pattern.fullmatch(value) for value in found):
        raise PatchError(400, f"{attribute} is not as RFC 8839, 5.4 has it")
    if len(found) > 1:
        raise PatchError(422, f"{attribute} differs between sections, which are bundled")
    return next(iter(found), None)
