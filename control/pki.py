# SPDX-License-Identifier: Apache-2.0
"""A small certificate authority, for tests and first steps.

One key signs everything and lies beside what it has signed, without a passphrase; nothing can be
revoked. Who has a CA should use that instead: earshotd and transceivers take any certificates
in PEM.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from control.errors import EarshotError

CA = "ca"
# Clocks of two hosts may differ.
_BACKDATED = timedelta(minutes=5)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_DNS = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")


class PkiError(EarshotError):
    """What was asked for cannot be made; nothing was overwritten."""


class Usage(Enum):
    """What a certificate is for."""

    RELAY = ExtendedKeyUsageOID.SERVER_AUTH
    CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH


def init(folder: Path, relay_sans: Sequence[str], days: int) -> list[Path]:
    """Makes a CA and a relay's certificate in a new or empty folder; returns the files made.

    Raises:
        PkiError: there is something already, or a name cannot be one.
        OSError: the files cannot be written.
    """
    names = _general_names(relay_sans)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _refuse_existing(folder, CA, "relay")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Earshot test CA")])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _builder(subject, subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    made = _write(folder, CA, certificate, key)
    return made + _issue(folder, "relay", names, Usage.RELAY, days)


def issue(folder: Path, name: str, sans: Sequence[str], days: int, usage: Usage = Usage.CLIENT) -> list[Path]:
    """Makes a certificate of the CA in a folder, by default a client's; returns the files made.

    Args:
        sans: DNS names, IP addresses and URIs: who it is. At least one.

    Raises:
        PkiError: there is no CA, there is such a certificate already, or a name cannot be one.
        OSError: the files cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise PkiError(f"{name!r} is not 1 to 63 of A-Za-z0-9._-, a letter or digit first")
    names = _general_names(sans)
    _refuse_existing(folder, name)
    return _issue(folder, name, names, usage, days)


def _issue(folder: Path, name: str, names: Sequence[x509.GeneralName], usage: Usage, days: int) -> list[Path]:
    try:
        ca = x509.load_pem_x509_certificate((folder / f"{CA}.crt").read_bytes())
        ca_key = load_pem_private_key((folder / f"{CA}.key").read_bytes(), None)
    except FileNotFoundError as error:
        raise PkiError(f"{error.filename} is not there: make a CA with: earshot pki init {folder}") from None
    except (ValueError, TypeError):
        raise PkiError(f"the CA in {folder} cannot be read") from None
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise PkiError(f"the CA in {folder} was not made by earshot pki")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        _builder(subject, ca.subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([usage.value]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    return _write(folder, name, certificate, key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + timedelta(days=days))
    )


def _general_names(sans: Sequence[str]) -> list[x509.GeneralName]:
    if not sans:
        raise PkiError("name at least one DNS name, IP address or URI (--san)")
    return [_general_name(san) for san in sans]


def _general_name(san: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(san))
    except ValueError:
        pass
    if "://" in san and san.isascii() and san.isprintable() and " " not in san:
        return x509.UniformResourceIdentifier(san)
    if _DNS.fullmatch(san) and len(san) <= 253:
        return x509.DNSName(san)
    raise PkiError(f"{san!r} is neither a DNS name nor an IP address nor a URI")


def _refuse_existing(folder: Path, *names: str) -> None:
    for path in (path for name in names for path in _paths(folder, name) if path.exists()):
        raise PkiError(f"{path} is there already; nothing is overwritten")


def _paths(folder: Path, name: str) -> list[Path]:
    return [folder / f"{name}.crt", folder / f"{name}.key"]


def _write(
    folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> list[Path]:
    paths = _paths(folder, name)
    contents = (
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
    for path, content in zip(paths, contents, strict=True):
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
    return paths
