# SPDX-License-Identifier: Apache-2.0
"""Offers checked and reduced to what is served; answers finished. Text in, text out, no I/O.

What is served: one Opus audio section, one data-channel section, or both, bundled (RFC 9725, 4.4.2);
nothing is answered in part (4.4.3). The offer is rewritten before aiortc sees it:

- candidates go: this endpoint never sends to an address that the client names, it answers checks;
- audio formats other than Opus go: audio is passed on undecoded, in the format that it came in;
- ``setup:actpass`` becomes ``active``: the answer is then ``passive``, so that any certificate works;
- the bundle group is put in the order of the sections, the only one that aiortc handles in all cases.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence

from transceiver.agent import Credentials
from transceiver.errors import OfferError
from transceiver.media import Endpoint

MAX_LINES = 1000
LINE = re.compile(r"[a-z]=[^\x00\r\n]*")
UFRAG = re.compile(r"[A-Za-z0-9+/]{4,256}")
PWD = re.compile(r"[A-Za-z0-9+/]{22,256}")
_FINGERPRINT = re.compile(r"sha-(?:256|384|512) [0-9A-F]{2}(?::[0-9A-F]{2})+", re.IGNORECASE)
_TOKEN = re.compile(r"[A-Za-z0-9_.-]{1,32}")
_OPUS = re.compile(r"(\d+) opus/48000/2", re.IGNORECASE)
_DROPPED = ("candidate", "end-of-candidates", "remote-candidates")
_PER_FORMAT = ("rtpmap", "fmtp", "rtcp-fb")
_PROTOCOLS = {
    "audio": ("UDP/TLS/RTP/SAVPF", "RTP/SAVPF"),
    "application": ("UDP/DTLS/SCTP", "DTLS/SCTP"),
}


def accept_offer(text: str) -> str:
    """The offer as aiortc is to see it.

    Raises:
        OfferError: 400 if it is not SDP, 422 if it asks for what is not served.
    """
    session, sections = _split(text)
    if any(line == "a=ice-lite" for line in session):
        raise OfferError(422, "the client is ICE-lite, and so is this endpoint: nobody would send checks")
    mids = [_check_section(section, session) for section in sections]
    for name, values in (("media kind", [_kind(section) for section in sections]), ("mid", mids)):
        if len(set(values)) != len(values):
            raise OfferError(422, f"a {name} occurs twice; one audio and one data section are served")
    lines = [line for line in session if not line.startswith("a=group:BUNDLE")]
    if len(sections) > 1:
        bundled = {mid for line in session if line not in lines for mid in line.split()[1:]}
        if not bundled.issuperset(mids):
            raise OfferError(422, "the sections are not bundled (RFC 9143)")
    lines.append(f"a=group:BUNDLE {' '.join(mids)}")
    return _join(lines + [line for section in sections for line in _rewritten(section)])


def client_credentials(offer: str) -> Credentials:
    """The client's, of an offer that was accepted: those of its first section, which carries the bundle."""
    lines = offer.split("\r\n")
    return Credentials(values(lines, "ice-ufrag")[0], values(lines, "ice-pwd")[0])


def finish_answer(sdp: str) -> str:
    """aiortc's answer, declared ICE-lite (RFC 8839, 5.3)."""
    head, separator, rest = sdp.partition("\r\nt=0 0\r\n")
    if not separator:
        raise ValueError("the answer has no t= line")
    return f"{head}{separator}a=ice-lite\r\n{rest}"


def with_candidates_of(answer: str, endpoints: Sequence[Endpoint]) -> str:
    """An answer without candidates elsewhere; the first that is left is the default (RFC 8839, 4.2.1)."""
    wanted = {(str(endpoint.address), str(endpoint.port)) for endpoint in endpoints}
    head, *sections = answer.split("\r\nm=")
    return "\r\nm=".join([head, *(_with_candidates(section, wanted) for section in sections)])


def _with_candidates(section: str, wanted: Collection[tuple[str, str]]) -> str:
    """A media section from after its `m=` on."""
    lines = section.split("\r\n")
    kept = [line for line in lines if not line.startswith("a=candidate:") or _where(line) in wanted]
    host, port = next((_where(line) for line in kept if line.startswith("a=candidate:")), (None, ""))
    if host is None:  # it had none: it shares another one's
        return section
    kind, _port, rest = kept[0].split(" ", 2)
    at = next(index for index, line in enumerate(kept) if line.startswith("c="))
    kept[0] = f"{kind} {port} {rest}"
    kept[at] = f"c=IN IP{6 if ':' in host else 4} {host}"
    return "\r\n".join(kept)


def _where(candidate: str) -> tuple[str, str]:
    """Address and port of a line `a=candidate:` (RFC 8839, 5.1)."""
    fields = candidate.split(" ")
    return fields[4], fields[5]


def _split(text: str) -> tuple[list[str], list[list[str]]]:
    """The session's lines, and those of each media section."""
    lines = [line for line in text.replace("\r\n", "\n").split("\n") if line]
    if not lines or lines[0] != "v=0":
        raise OfferError(400, "not SDP: it does not begin with v=0")
    if len(lines) > MAX_LINES:
        raise OfferError(400, f"more than {MAX_LINES} lines")
    for number, line in enumerate(lines, 1):
        if not LINE.fullmatch(line):
            raise OfferError(400, f"not SDP: line {number} is not of the form x=value")
    starts = [index for index, line in enumerate(lines) if line.startswith("m=")]
    if not starts:
        raise OfferError(422, "neither audio nor a data channel is offered")
    ends = [*starts[1:], len(lines)]
    return lines[: starts[0]], [lines[start:end] for start, end in zip(starts, ends, strict=True)]


def _kind(section: list[str]) -> str:
    return section[0][2:].split(" ")[0]


def _check_section(section: list[str], session: list[str]) -> str:
    """The mid of a media section that can be served."""
    fields = section[0][2:].split(" ")
    if len(fields) < 4 or not (fields[1].isascii() and fields[1].isdecimal()):
        raise OfferError(400, f"not SDP: {section[0]!r} is not a media line")
    kind, port, protocol = fields[:3]
    if protocol not in _PROTOCOLS.get(kind, ()):
        raise OfferError(422, f"only audio and data channels are served, not {kind} over {protocol}")
    if int(port) == 0 and "a=bundle-only" not in section:
        raise OfferError(422, f"the {kind} section is disabled")
    if kind == "audio" and not _opus(section):
        raise OfferError(422, "the audio section does not offer opus/48000/2")
    checks = (
        ("ice-ufrag", UFRAG, "4 to 256 ice-chars"),
        ("ice-pwd", PWD, "22 to 256 ice-chars"),
        ("fingerprint", _FINGERPRINT, "a SHA-2 fingerprint"),
        ("setup", re.compile("actpass|active"), "actpass: this endpoint is passive"),
    )
    for name, pattern, wanted in checks:
        found = values(section, name) or values(session, name)
        if not found or not all(pattern.fullmatch(value) for value in found):
            raise OfferError(422, f"{name} of the {kind} section is not {wanted}")
    mids = values(section, "mid")
    if len(mids) != 1 or not _TOKEN.fullmatch(mids[0]):
        raise OfferError(422, f"the {kind} section has no proper mid")
    return mids[0]


def _opus(section: list[str]) -> list[str]:
    """Payload types of Opus that the media line lists."""
    listed = section[0].split(" ")[3:]
    found = (_OPUS.fullmatch(value) for value in values(section, "rtpmap"))
    return [match[1] for match in found if match and match[1] in listed]


def values(lines: Iterable[str], attribute: str) -> list[str]:
    """The values of an attribute, wherever in the lines it stands."""
    prefix = f"a={attribute}:"
    return [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]


def _rewritten(section: list[str]) -> Iterator[str]:
    audio = _kind(section) == "audio"
    formats = _opus(section)
    if audio:
        yield " ".join([*section[0].split(" ")[:3], *formats])
    else:
        yield section[0]
    for line in section[1:]:
        attribute, _, value = line.removeprefix("a=").partition(":")
        if not line.startswith("a="):
            yield line
        elif attribute == "setup":
            yield "a=setup:active"
        elif attribute in _DROPPED or (
            audio and attribute in _PER_FORMAT and value.split(" ")[0] not in (*formats, "*")
        ):
            continue
        else:
            yield line


def _join(lines: Iterable[str]) -> str:
    return "".join(f"{line}\r\n" for line in lines)
