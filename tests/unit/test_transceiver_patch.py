# SPDX-License-Identifier: Apache-2.0
"""What a PATCH may say: its precondition and its fragment."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transceiver.agent import Credentials
from transceiver.errors import PatchError
from transceiver.etag import check_if_match, new_etag
from transceiver.sdp import MAX_LINES
from transceiver.sdpfrag import read_credentials, restart_answer

ETAG = '"0123"'
UFRAG, PWD = "abcd", "p" * 24
BOTH = f"a=ice-ufrag:{UFRAG}\r\na=ice-pwd:{PWD}\r\n"


@pytest.mark.parametrize(
    "field", [ETAG, "*", '"*"', f" {ETAG} ", f'"other", {ETAG}', f'{ETAG},W/"x"', f'"with,comma",{ETAG}']
)
def test_preconditions_that_hold(field: str) -> None:
    check_if_match(field, ETAG)


@pytest.mark.parametrize(
    ("field", "status"),
    [
        (None, 428),
        ('"other"', 412),
        (f"W/{ETAG}", 412),
        ('"other", "another"', 412),
        ("", 400),
        ("0123", 400),
        ("*, *", 400),
        (f"{ETAG}, *", 400),
        (f"{ETAG} {ETAG}", 400),
        ('"0123', 400),
    ],
)
def test_preconditions_that_do_not(field: str | None, status: int) -> None:
    with pytest.raises(PatchError) as caught:
        check_if_match(field, ETAG)
    assert caught.value.status == status


def test_no_two_tags_are_the_same() -> None:
    assert len({new_etag() for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "fragment",
    [
        BOTH,
        f"a=ice-options:trickle\r\n{BOTH}m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n",
        f"m=audio 9 RTP/AVP 0\r\na=mid:0\r\n{BOTH}m=application 9 x y\r\na=mid:1\r\n{BOTH}",
        BOTH.replace("\r\n", "\n"),
    ],
)
def test_credentials_stand_anywhere(fragment: str) -> None:
    assert read_credentials(fragment) == Credentials(UFRAG, PWD)


def test_a_fragment_may_name_none() -> None:
    assert read_credentials("a=mid:0\r\na=candidate:whatever it says\r\na=end-of-candidates\r\n") is None


@pytest.mark.parametrize(
    ("fragment", "status"),
    [
        ("", 400),
        ("\r\n", 400),
        ("hello", 400),
        ("a=x\0", 400),
        ("c=IN IP4 0.0.0.0", 400),
        ("a=x\r\n" * (MAX_LINES + 1), 400),
        (f"a=ice-ufrag:{UFRAG}", 400),
        (f"a=ice-pwd:{PWD}", 400),
        (BOTH.replace(UFRAG, "abc"), 400),
        (BOTH.replace(PWD, "short"), 400),
        (BOTH + BOTH.replace(UFRAG, "other"), 422),
        ("v=0\r\no=- 1 1 IN IP4 0.0.0.0", 422),
    ],
)
def test_what_is_no_fragment_is_refused(fragment: str, status: int) -> None:
    with pytest.raises(PatchError) as caught:
        read_credentials(fragment)
    assert caught.value.status == status


@given(st.text() | st.text(alphabet="am=:\r\nice-ufragpwd0"))
def test_no_text_raises_anything_else(text: str) -> None:
    with contextlib.suppress(PatchError):
        read_credentials(text)


def test_the_answer_to_a_restart_is_the_ice_of_the_answer_with_new_credentials() -> None:
    answer = (
        "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=ice-lite\r\na=group:BUNDLE 0 1\r\n"
        "m=audio 3478 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 192.0.2.1\r\na=mid:0\r\na=rtpmap:96 opus/48000/2\r\n"
        "a=candidate:1 1 udp 5 192.0.2.1 3478 typ host\r\na=ice-ufrag:old0\r\na=ice-pwd:old\r\n"
        "m=application 3478 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:1\r\n"
    )
    assert restart_answer(answer, Credentials(UFRAG, PWD)).split("\r\n") == [
        "a=ice-lite",
        "a=group:BUNDLE 0 1",
        "m=audio 9 UDP/TLS/RTP/SAVPF 96",
        "a=mid:0",
        f"a=ice-ufrag:{UFRAG}",
        f"a=ice-pwd:{PWD}",
        "a=candidate:1 1 udp 5 192.0.2.1 3478 typ host",
        "a=end-of-candidates",
        "",
    ]
