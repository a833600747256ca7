# SPDX-License-Identifier: Apache-2.0
"""Sessions as the directory has them, made of the registry's, and made into requests again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from earshot.directory.v1 import directory_pb2 as pb
from earshot.relay.v1 import relay_pb2 as relay
from google.protobuf.message import DecodeError

from control.addresses import Endpoint
from control.hmac_keys import STATE_WORDS
from control.model import Session, UfragKey
from control.requests import Code, EndpointChecks, RequestError, SessionRequest, check_session

_STATES_BYTES = (0, 2 * 4 * STATE_WORDS)


class Registered(NamedTuple):
    """A session of another relay's, checked."""

    request: SessionRequest
    keys: list[UfragKey]


class Writer:
    """Writes registrations. Sessions name the same few endpoints, which are put into messages once."""

    def __init__(self, endpoints: Callable[[Session], Sequence[Endpoint]]) -> None:
        """`endpoints`: where a session's media goes."""
        self._endpoints = endpoints

    def write(self, session: Session) -> bytes:
        """The message, the same each time for the same session."""
        message = relay.Session(
            session_id=session.session_id,
            credentials=[relay.Credential(ufrag=key.ufrag) for key in session.keys],
            endpoints=[
                relay.Endpoint(address=str(end.address), port=end.port) for end in self._endpoints(session)
            ],
            ttl_seconds=session.ttl_seconds,
            fingerprint_optional=session.fingerprint_optional,
            rtp_clock_rate=session.rtp_clock_rate,
        )
        registration = pb.Registration(session=message, states=[key.states for key in session.keys])
        return registration.SerializeToString(deterministic=True)


def read(registration: bytes, endpoints: EndpointChecks) -> Registered:
    """What a registration says. Raises RequestError: it cannot be, here."""
    try:
        message = pb.Registration.FromString(registration)
    except DecodeError as error:
        raise RequestError(Code.INVALID_ARGUMENT, str(error), "registration") from None
    request = check_session(message.session, endpoints)
    if len(message.states) != len(request.credentials) or not all(
        len(states) in _STATES_BYTES for states in message.states
    ):
        raise RequestError(Code.INVALID_ARGUMENT, "do not belong to the credentials", "states")
    keys = [
        UfragKey(credential.ufrag, states)
        for credential, states in zip(request.credentials, message.states, strict=True)
    ]
    return Registered(request, keys)
