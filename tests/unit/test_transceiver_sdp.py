# SPDX-License-Identifier: Apache-2.0
"""Which offers are served, and what of them aiortc gets to see."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transceiver.errors import OfferError
from transceiver.sdp import MAX_LINES, accept_offer, finish_answer

FINGERPRINT = ":".join(["AB"] * 32)
TRANSPORT = f"""a=ice-ufrag:abcd
a=ice-pwd:{"p" * 24}
a=fingerprint:sha-256 {FINGERPRINT}
a=setup:actpass
"""
AUDIO = f"""m=audio 9 UDP/TLS/RTP/SAVPF 0 111 63
c=IN IP4 0.0.0.0
a=mid:0
a=sendrecv
a=rtcp-mux
a=rtpmap:0 PCMU/8000
a=rtpmap:111 opus/48000/2
a=fmtp:111 minptime=10;useinbandfec=1
a=rtcp-fb:111 transport-cc
a=rtpmap:63 red/48000/2
a=fmtp:63 111/111
a=candidate:1 1 udp 2122260223 192.0.2.7 50000 typ host
a=end-of-candidates
{TRANSPORT}"""
DATA = f"""m=application 9 UDP/DTLS/SCTP webrtc-datachannel
c=IN IP4 0.0.0.0
a=mid:1
a=sctp-port:5000
{TRANSPORT}"""
SESSION = """v=0
o=- 1 1 IN IP4 0.0.0.0
s=-
t=0 0
a=group:BUNDLE 0 1
"""
OFFER = (SESSION + AUDIO + DATA).replace("\n", "\r\n")


def lines(sdp: str) -> list[str]:
    assert sdp.endswith("\r\n")
    return sdp.split("\r\n")[:-1]


def test_candidates_go_and_the_client_is_active() -> None:
    seen = lines(accept_offer(OFFER))
    assert not [line for line in seen if "candidate" in line]
    assert [line for line in seen if line.startswith("a=setup")] == ["a=setup:active"] * 2


def test_opus_alone_is_left_of_the_formats() -> None:
    seen = lines(accept_offer(OFFER))
    assert "m=audio 9 UDP/TLS/RTP/SAVPF 111" in seen
    kept = [line for line in seen if line.startswith(("a=rtpmap", "a=fmtp", "a=rtcp-fb"))]
    assert kept == [
        "a=rtpmap:111 opus/48000/2",
        "a=fmtp:111 minptime=10;useinbandfec=1",
        "a=rtcp-fb:111 transport-cc",
    ]


def test_bundle_is_put_in_the_order_of_the_sections() -> None:
    assert "a=group:BUNDLE 0 1" in lines(accept_offer(OFFER.replace("BUNDLE 0 1", "BUNDLE 1 0")))


@pytest.mark.parametrize("sections", [AUDIO, DATA])
def test_one_section_alone_needs_no_bundle(sections: str) -> None:
    accept_offer(SESSION.replace("a=group:BUNDLE 0 1\n", "") + sections)


def test_transport_attributes_may_stand_in_the_session() -> None:
    accept_offer(SESSION + TRANSPORT + AUDIO.replace(TRANSPORT, "") + DATA.replace(TRANSPORT, ""))


BAD: dict[str, tuple[int, Callable[[str], str]]] = {
    "empty": (400, lambda _: ""),
    "not SDP": (400, lambda _: "hello"),
    "JSON": (400, lambda _: '{"type": "offer"}'),
    "a line without type": (400, lambda sdp: sdp + "oops\r\n"),
    "a NUL": (400, lambda sdp: sdp.replace("s=-", "s=\0")),
    "a media line cut short": (400, lambda sdp: sdp + "m=audio\r\n"),
    "a port that is no number": (400, lambda sdp: sdp.replace("m=audio 9", "m=audio x")),
    "too many lines": (400, lambda sdp: sdp + "a=x\r\n" * MAX_LINES),
    "no media": (422, lambda sdp: sdp.split("m=")[0]),
    "video": (422, lambda sdp: sdp.replace("m=audio", "m=video")),
    "plain RTP": (422, lambda sdp: sdp.replace("UDP/TLS/RTP/SAVPF", "RTP/AVP")),
    "a disabled section": (422, lambda sdp: sdp.replace("m=audio 9", "m=audio 0")),
    "no Opus": (422, lambda sdp: sdp.replace("opus", "speex")),
    "Opus not listed": (422, lambda sdp: sdp.replace(" 0 111 63", " 0 63")),
    "two audio sections": (422, lambda sdp: sdp + AUDIO.replace("a=mid:0", "a=mid:2")),
    "a mid twice": (422, lambda sdp: sdp.replace("a=mid:1", "a=mid:0")),
    "no mid": (422, lambda sdp: sdp.replace("a=mid:0\r\n", "")),
    "a mid with a space": (422, lambda sdp: sdp.replace("a=mid:0", "a=mid:0 0")),
    "not bundled": (422, lambda sdp: sdp.replace("BUNDLE 0 1", "BUNDLE 0")),
    "no ufrag": (422, lambda sdp: sdp.replace("a=ice-ufrag:abcd\r\n", "")),
    "a short ufrag": (422, lambda sdp: sdp.replace("ufrag:abcd", "ufrag:abc")),
    "a short pwd": (422, lambda sdp: sdp.replace("p" * 24, "p" * 21)),
    "no fingerprint": (422, lambda sdp: sdp.replace("a=fingerprint", "a=footprint")),
    "a weak fingerprint": (422, lambda sdp: sdp.replace("sha-256", "md5")),
    "a passive client": (422, lambda sdp: sdp.replace("actpass", "passive")),
    "an ICE-lite client": (422, lambda sdp: sdp.replace("t=0 0", "t=0 0\r\na=ice-lite")),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_served_is_refused(name: str) -> None:
    status, spoil = BAD[name]
    spoiled = spoil(OFFER)
    assert spoiled != OFFER
    with pytest.raises(OfferError) as caught:
        accept_offer(spoiled)
    assert caught.value.status == status


@given(st.text())
def test_no_text_raises_anything_else(text: str) -> None:
    with pytest.raises(OfferError):
        accept_offer(text)


@given(st.integers(0, len(OFFER) - 1), st.integers(0, len(OFFER) - 1), st.text(max_size=5))
def test_no_damage_raises_anything_else(start: int, end: int, patch: str) -> None:
    with contextlib.suppress(OfferError):
        accept_offer(OFFER[:start] + patch + OFFER[end:])


def test_the_answer_is_declared_lite() -> None:
    answer = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\nm=audio ...\r\n"
    assert finish_answer(answer).split("\r\n")[4:6] == ["a=ice-lite", "a=group:BUNDLE 0"]
