# SPDX-License-Identifier: Apache-2.0
"""Every field that a transceiver can get wrong is named, with the fitting code."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from earshot.relay.v1 import relay_pb2 as pb

from control.addresses import Endpoint
from control.requests import Code, EndpointChecks, LocalAddresses, RequestError, check_hello, check_session

PWD = "p" * 22
LOCAL = LocalAddresses.of(
    [Endpoint(ip_address("203.0.113.1"), 3478), Endpoint(ip_address("2001:db8::1"), 3478)],
    [ip_address("10.0.0.1"), ip_address("fd00::1")],
)
ONLY_4 = LocalAddresses.of([Endpoint(ip_address("203.0.113.1"), 3478)], [ip_address("10.0.0.1")])


def message(
    session_id: str = "s1",
    credentials: list[tuple[str, str]] | None = None,
    endpoints: list[tuple[str, int]] | None = None,
    ttl_seconds: int = 0,
    rtp_clock_rate: int = 0,
) -> pb.Session:
    return pb.Session(
        session_id=session_id,
        credentials=[
            pb.Credential(ufrag=ufrag, pwd=pwd)
            for ufrag, pwd in ([("ufrg", PWD)] if credentials is None else credentials)
        ],
        endpoints=[
            pb.Endpoint(address=address, port=port)
            for address, port in ([("10.0.0.9", 4000)] if endpoints is None else endpoints)
        ],
        ttl_seconds=ttl_seconds,
        rtp_clock_rate=rtp_clock_rate,
    )


@pytest.mark.parametrize("ufrag", ["abcd", "a" * 32, "A+/9"])
@pytest.mark.parametrize("pwd", ["", PWD, "x" * 256])
def test_credentials_accepted(ufrag: str, pwd: str) -> None:
    checked = check_session(message(credentials=[(ufrag, pwd)]), EndpointChecks(LOCAL))
    assert [(one.ufrag, one.pwd) for one in checked.credentials] == [(ufrag, pwd.encode())]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"session_id": ""}, "session_id"),
        ({"session_id": "x" * 33}, "session_id"),
        ({"session_id": "a b"}, "session_id"),
        ({"session_id": "a\n"}, "session_id"),
        ({"credentials": []}, "credentials"),
        ({"credentials": [(f"ufr{n}", PWD) for n in range(5)]}, "credentials"),
        ({"credentials": [("abc", PWD)]}, "credentials[0].ufrag"),
        ({"credentials": [("a" * 33, PWD)]}, "credentials[0].ufrag"),
        ({"credentials": [("ab:d", PWD)]}, "credentials[0].ufrag"),
        ({"credentials": [("abcd\n", PWD)]}, "credentials[0].ufrag"),
        ({"credentials": [("äöüß", PWD)]}, "credentials[0].ufrag"),
        ({"credentials": [("good", PWD), ("good", PWD)]}, "credentials[1].ufrag"),
        ({"credentials": [("abcd", "x" * 21)]}, "credentials[0].pwd"),
        ({"credentials": [("abcd", PWD), ("efgh", "x" * 257)]}, "credentials[1].pwd"),
        ({"credentials": [("abcd", "-" * 22)]}, "credentials[0].pwd"),
        ({"endpoints": []}, "endpoints"),
        ({"endpoints": [("", 4000)]}, "endpoints[0].address"),
        ({"endpoints": [("host.example", 4000)]}, "endpoints[0].address"),
        ({"endpoints": [("0.0.0.0", 4000)]}, "endpoints[0].address"),
        ({"endpoints": [("127.0.0.1", 4000)]}, "endpoints[0].address"),
        ({"endpoints": [("239.1.1.1", 4000)]}, "endpoints[0].address"),
        ({"endpoints": [("255.255.255.255", 4000)]}, "endpoints[0].address"),
        ({"endpoints": [("::ffff:10.0.0.9", 4000)]}, "endpoints[0].address"),
        ({"endpoints": [("fe80::1%eth0", 4000)]}, "endpoints[0].address"),
        ({"endpoints": [("ff02::1", 4000)]}, "endpoints[0].address"),
        ({"endpoints": [("203.0.113.1", 4000)]}, "endpoints[0].address"),
        ({"endpoints": [("10.0.0.9", 1), ("fd00::1", 4000)]}, "endpoints[1].address"),
        ({"endpoints": [("10.0.0.9", 1), ("10.0.0.8", 1)]}, "endpoints[1].address"),
        ({"endpoints": [("10.0.0.9", 0)]}, "endpoints[0].port"),
        ({"endpoints": [("10.0.0.9", 65536)]}, "endpoints[0].port"),
        ({"ttl_seconds": 2**32 - 1}, "ttl_seconds"),
        ({"rtp_clock_rate": 1}, "rtp_clock_rate"),
        ({"rtp_clock_rate": 48001}, "rtp_clock_rate"),
        ({"rtp_clock_rate": 102400}, "rtp_clock_rate"),
        ({"rtp_clock_rate": 2**32 - 1}, "rtp_clock_rate"),
    ],
)
def test_invalid(wrong: dict[str, object], field: str) -> None:
    with pytest.raises(RequestError) as caught:
        check_session(message(**wrong), EndpointChecks(LOCAL))  # type: ignore[arg-type]
    assert (caught.value.code, caught.value.field) == (Code.INVALID_ARGUMENT, field)


@pytest.mark.parametrize("rate", [0, 25, 8000, 11025, 22050, 44100, 48000, 90000, 96000, 102375])
def test_clock_rates_accepted(rate: int) -> None:
    assert check_session(message(rtp_clock_rate=rate), EndpointChecks(LOCAL)).rtp_clock_rate == rate


def test_endpoint_of_a_family_without_vip_is_left_out() -> None:
    checked = check_session(
        message(endpoints=[("fd00::9", 4000), ("10.0.0.9", 4001)]), EndpointChecks(ONLY_4)
    )
    assert checked.endpoints == {"endpoints[1]": Endpoint(ip_address("10.0.0.9"), 4001)}


def test_no_endpoint_of_a_family_with_vip() -> None:
    with pytest.raises(RequestError, match="IPv4 only") as caught:
        check_session(message(endpoints=[("fd00::9", 4000)]), EndpointChecks(ONLY_4))
    assert (caught.value.code, caught.value.field) == (Code.FAILED_PRECONDITION, "endpoints")


@pytest.mark.parametrize("name", ["", "x" * 65, "a b", "a/b"])
def test_bad_name(name: str) -> None:
    with pytest.raises(RequestError) as caught:
        check_hello(pb.Hello(transceiver=name))
    assert (caught.value.code, caught.value.field) == (Code.INVALID_ARGUMENT, "hello.transceiver")


def test_pwd_is_never_shown() -> None:
    checked = check_session(message(credentials=[("abcd", "s3cret" * 5)]), EndpointChecks(LOCAL))
    assert "s3cret" not in repr(checked)
    with pytest.raises(RequestError) as caught:
        check_session(message(credentials=[("abcd", "s3cret")]), EndpointChecks(LOCAL))
    assert "s3cret" not in str(caught.value)


def test_sessions_of_the_same_endpoints_share_them() -> None:
    checks = EndpointChecks(LOCAL)
    first, second, third = (
        check_session(message(session_id, endpoints=[("10.0.0.9", port), ("fd00::9", 4001)]), checks)
        for session_id, port in (("a", 4000), ("b", 4000), ("c", 4001))
    )
    assert first.endpoints is second.endpoints
    assert third.endpoints["endpoints[0]"] == Endpoint(ip_address("10.0.0.9"), 4001)
    for _ in range(2):  # what was refused once is refused again
        with pytest.raises(RequestError):
            check_session(message(endpoints=[("10.0.0.1", 4000)]), checks)
