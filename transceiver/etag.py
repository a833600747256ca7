# SPDX-License-Identifier: Apache-2.0
"""Entity tags of sessions and the precondition on changing one (RFC 9110, 13.1.1; RFC 9725, 4.3). No I/O.

A session's tag stands for its ICE generation: trickling names it, so that candidates of before a restart do
not count after it; a restart says `*`, since the client wants it whatever the state is.
"""

from __future__ import annotations

import re
import secrets

from transceiver.errors import PatchError

_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_TAGS = re.compile(rf"{_TAG}(?:[ \t]*,[ \t]*{_TAG})*")
_ANY = ("*", '"*"')  # the examples of RFC 9725 quote it, and clients copy them; no tag of ours is "*"


def new_etag() -> str:
    """A strong tag that no session has had before."""
    return f'"{secrets.token_hex(8)}"'


def check_if_match(field: str | None, etag: str) -> None:
    """Whether a change may be made to what has this tag now.

    Raises:
        PatchError: 428 without the field, 400 if it is malformed, 412 if none of its tags is the present one.
    """
    if field is None:
        raise PatchError(428, "a change needs If-Match: the session's ETag, or * for an ICE restart")
    field = field.strip(" \t")
    if field in _ANY:
        return
    if not _TAGS.fullmatch(field):
        raise PatchError(400, "If-Match is neither * nor a list of entity tags")
    if etag not in re.findall(_TAG, field):  # strongly compared: a weak tag matches nothing
        raise PatchError(412, "the session has a newer ETag: its ICE has been restarted")
