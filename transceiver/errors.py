# SPDX-License-Identifier: Apache-2.0
"""What can go wrong in a transceiver, as a tree.

    TransceiverError
    ├── LibraryError            aiortc or aioice is not as this code needs it
    ├── RequestError            a client's request cannot be served; carries the HTTP status
    │   ├── OfferError          an SDP offer
    │   └── PatchError          a change to a session
    ├── WorkerError             a worker process cannot start
    ├── BusyError               no room for another call
    ├── SpeechError             a speech backend failed one session
    │   ├── NoBackendError      none is there that would take it
    │   ├── BackendAwayError    it is gone, or refused
    │   ├── BackendStalledError it is there, and does nothing
    │   └── BackendFaultError   what it sent is not what was agreed on
    └── RelayError
        ├── RelayAwayError      not attached to a relay, or it did not answer in time
        └── RefusedError        the relay refused an operation; carries code and field

Messages are for people and never hold a pwd.
"""

from __future__ import annotations


class TransceiverError(Exception):
    """Root of all errors that the transceiver raises on purpose."""


class LibraryError(TransceiverError):
    """A library lacks a name that this code leans on."""


class RequestError(TransceiverError):
    """A request is at fault; `status` is the HTTP status that says how."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class OfferError(RequestError):
    """An offer is not SDP (400), or asks for what cannot be served (422)."""


class PatchError(RequestError):
    """No such session (404), not a fragment (400, 422), or the precondition does not hold (412, 428)."""


class WorkerError(TransceiverError):
    """A worker process ended before it had ever been ready."""


class BusyError(TransceiverError):
    """No room for another call now."""


class SpeechError(TransceiverError):
    """A session has lost its backend, or never had one; `kind` is a label in the metrics, and so API."""

    kind = "failed"


class NoBackendError(SpeechError):
    """No backend is healthy, or all refused."""

    kind = "none"


class BackendAwayError(SpeechError):
    """The stream could not be opened, broke, or was ended by a status."""

    kind = "away"


class BackendStalledError(SpeechError):
    """A deadline has passed."""

    kind = "stalled"


class BackendFaultError(SpeechError):
    """A message against the contract (proto/earshot/speech/v1)."""

    kind = "fault"


class RelayError(TransceiverError):
    """The relay could not do what it was asked."""


class RelayAwayError(RelayError):
    """There is no relay at the moment, or it is silent."""


class RefusedError(RelayError):
    """The relay looked at an operation and said no."""

    def __init__(self, code: int, message: str, field: str) -> None:
        super().__init__(f"{message} (code {code}{', field ' + field if field else ''})")
        self.code = code
        self.field = field
