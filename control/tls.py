# SPDX-License-Identifier: Apache-2.0
"""Mutual TLS for the gRPC server, with certificates that may change while it runs."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from control.errors import ConfigError
from control.logs import event

_log = logging.getLogger(__name__)
_Stamp = tuple[tuple[int, int, int], ...]


class TlsFiles(NamedTuple):
    """Where the relay's certificate chain, its key, and the CA of its callers are, all PEM."""

    tls_certificate: Path
    tls_key: Path
    tls_client_ca: Path


class Certificates:
    """What the files hold; read again, at a caller's handshake, when one of them has changed.

    What cannot be used (a renewal that is half written, say) is left for the next handshake, and what
    was read before is used until then. Connections that are open are not ended.
    """

    def __init__(self, files: TlsFiles) -> None:
        """Raises ConfigError, naming the field."""
        self._files = files
        self._lock = threading.Lock()
        self._fault = ""
        self._stamp = self._look()
        self._first = self._read()

    def credentials(self) -> Any:
        """For a port of a gRPC server; without a certificate of the CA nobody gets in."""
        return grpc.dynamic_ssl_server_credentials(
            self._first, self._fetch, require_client_authentication=True
        )

    def _fetch(self) -> Any:
        """Called by gRPC before each handshake, in a thread of its own; None: as before."""
        with self._lock:
            try:
                stamp = self._look()
                if stamp == self._stamp:
                    return None
                # Not looked at again before it changes again: each attempt would cost, and log, as much.
                self._stamp = stamp
                made = self._read()
            except ConfigError as error:
                if str(error) != self._fault:  # each fault once: handshakes come as fast as strangers like
                    self._fault = str(error)
                    event(_log, logging.WARNING, "certificates_not_read", fault=error)
                return None
            self._fault = ""
            event(_log, logging.INFO, "certificates_read", certificate=self._files.tls_certificate)
            return made

    def _look(self) -> _Stamp:
        stamps = []
        for field, path in self._files._asdict().items():
            try:
                found = path.stat()
            except OSError as error:
                raise ConfigError(field, f"cannot read {path}: {error.strerror}") from error
            stamps.append((found.st_mtime_ns, found.st_size, found.st_ino))
        return tuple(stamps)

    def _read(self) -> Any:
        held = {}
        for field, path in self._files._asdict().items():
            try:
                held[field] = path.read_bytes()
            except OSError as error:
                raise ConfigError(field, f"cannot read {path}: {error.strerror}") from error
        chain = _parsed("tls_certificate", self._files.tls_certificate, x509.load_pem_x509_certificates, held)
        _parsed("tls_client_ca", self._files.tls_client_ca, x509.load_pem_x509_certificates, held)
        key = _parsed("tls_key", self._files.tls_key, lambda pem: load_pem_private_key(pem, None), held)
        if _spki(key.public_key()) != _spki(chain[0].public_key()):
            raise ConfigError("tls_key", f"{self._files.tls_key} does not belong to the certificate")
        return grpc.ssl_server_certificate_configuration(
            [(held["tls_key"], held["tls_certificate"])], root_certificates=held["tls_client_ca"]
        )


def _parsed(field: str, path: Path, parse: Any, held: dict[str, bytes]) -> Any:
    try:
        return parse(held[field])
    except (ValueError, TypeError):
        # Without the cause: nobody knows how much of a key its text might quote.
        raise ConfigError(field, f"{path} holds nothing of that kind in PEM, or has a passphrase") from None


def _spki(key: Any) -> bytes:
    raw: bytes = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return raw
