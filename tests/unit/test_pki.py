# SPDX-License-Identifier: Apache-2.0
"""The small CA: what it makes, for whom, and what it refuses."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from control import pki
from control.cli.main import cli


def run(*argv: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, ["pki", *argv])
    return result.exit_code, result.stdout, result.stderr


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_what_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "pki"
    status, out, _ = run("init", str(folder), "--san", "relay-1.example", "--san", "10.0.0.1")
    assert status == 0
    assert out.splitlines() == [str(folder / name) for name in ("ca.crt", "ca.key", "relay.crt", "relay.key")]
    status, out, _ = run("issue", str(folder), "voice-1", "--san", "voice-1.example", "--days", "3")
    assert (status, out) == (0, f"{folder}/voice-1.crt\n{folder}/voice-1.key\n")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}

    verifier = PolicyBuilder().store(Store([certificate(folder / "ca.crt")]))
    client = certificate(folder / "voice-1.crt")
    verified = verifier.build_client_verifier().verify(client, [])
    assert verified.subjects == [x509.DNSName("voice-1.example")]
    assert timedelta(days=2) < client.not_valid_after_utc - datetime.now(UTC) < timedelta(days=4)
    relay = certificate(folder / "relay.crt")
    verifier.build_server_verifier(x509.DNSName("relay-1.example")).verify(relay, [])
    with pytest.raises(VerificationError):  # a client's is not a server's
        verifier.build_server_verifier(x509.DNSName("voice-1.example")).verify(client, [])


def test_kinds_of_names(tmp_path: Path) -> None:
    pki.init(tmp_path, ["localhost"], 1)
    pki.issue(tmp_path, "all", ["a.example", "spiffe://x/y", "::1"], 1)
    names = certificate(tmp_path / "all.crt").extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert [type(name) for name in names.value] == [
        x509.DNSName,
        x509.UniformResourceIdentifier,
        x509.IPAddress,
    ]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    assert run("init", str(tmp_path))[0] == 0
    assert run("issue", str(tmp_path), "one", "--san", "one")[0] == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for argv in (("init", str(tmp_path)), ("issue", str(tmp_path), "one", "--san", "one")):
        status, out, err = run(*argv)
        assert (status, out) == (1, "")
        assert "nothing is overwritten" in err
    assert run("issue", str(tmp_path), "ca", "--san", "ca")[0] == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("name", "san", "says"),
    [
        ("../up", "a", "is not 1 to 63"),
        ("", "a", "is not 1 to 63"),
        ("x", "a b", "is neither a DNS name"),
        ("x", "http://a b", "is neither a DNS name"),
        ("x", "ü.example", "is neither a DNS name"),
        ("x", "", "is neither a DNS name"),
    ],
)
def test_names_that_cannot_be(tmp_path: Path, name: str, san: str, says: str) -> None:
    pki.init(tmp_path, ["localhost"], 1)
    with pytest.raises(pki.PkiError, match=says):
        pki.issue(tmp_path, name, [san], 1)


def test_issue_without_a_ca(tmp_path: Path) -> None:
    status, _, err = run("issue", str(tmp_path), "x", "--san", "x")
    assert status == 1
    assert "earshot pki init" in err


@pytest.mark.parametrize("content", ["", "nonsense"])
def test_a_ca_that_cannot_be_read(tmp_path: Path, content: str) -> None:
    pki.init(tmp_path, ["localhost"], 1)
    (tmp_path / "ca.key").write_text(content)
    with pytest.raises(pki.PkiError, match="cannot be read"):
        pki.issue(tmp_path, "x", ["x"], 1)
