# SPDX-License-Identifier: Apache-2.0
"""Routable ufrags: what a transceiver makes, a relay reads; and the format is what its page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control import routable
from control.config import FleetKeyFile
from control.errors import ConfigError
from control.requests import Credential, RequestError
from fleet import ufrag as ufrags
from fleet.key import FleetKey, FleetKeyError
from fleet.siphash import siphash
from transceiver.routable import Mint, NumberedKey

SECRET = bytes(range(32))
KEYS = {3: FleetKey.of(SECRET)}
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
owners, sessions, nonces = (st.integers(0, (1 << bits) - 1) for bits in (16, 31, 11))


@pytest.mark.parametrize(
    ("length", "value"),
    [(0, 0x726FDB47DD0E0E31), (1, 0x74F839C593DC67FD), (8, 0x93F5F5799A932462), (15, 0xA129CA6149BE45E5)],
)
def test_siphash_is_its_authors(length: int, value: int) -> None:
    """Vectors of the reference implementation: key 00..0f, message 00, 01, 02, ..."""
    assert siphash(bytes(range(16)), bytes(range(length))) == value


@given(owners, sessions, nonces)
def test_what_is_made_is_read(owner: int, session: int, nonce: int) -> None:
    ufrag, pwd = Mint(NumberedKey(3, SECRET), owner).credentials_of(session, nonce)
    assert re.fullmatch(r"[A-Za-z0-9+/]{16}", ufrag)
    assert re.fullmatch(r"[A-Za-z0-9+/]{22}", pwd)
    said = ufrags.read(ufrag, KEYS)
    assert said is not None
    assert (said.key, said.owner, said.session, said.pwd) == (3, owner, session, pwd)
    assert routable.session_of([Credential(ufrag, pwd.encode())], KEYS) == 1 << 31 | session
    assert pwd not in repr(said)


@given(owners, sessions, nonces, st.integers(0, 15), st.sampled_from(ALPHABET))
def test_what_is_changed_is_nothing(owner: int, session: int, nonce: int, at: int, other: str) -> None:
    ufrag, _ = Mint(NumberedKey(3, SECRET), owner).credentials_of(session, nonce)
    changed = ufrag[:at] + other + ufrag[at + 1 :]
    assert (ufrags.read(changed, KEYS) is None) == (changed != ufrag)


@pytest.mark.parametrize(
    "ufrag", ["", "short", "a" * 15, "a" * 17, "!" * 16, "aaaaaaaaaaaaaa==", "\u00e9" * 16]
)
def test_what_reads_as_none(ufrag: str) -> None:
    assert ufrags.read(ufrag, KEYS) is None


def test_keys_are_told_apart_by_number_and_by_secret() -> None:
    ufrag, _ = Mint(NumberedKey(3, SECRET), 1).credentials_of(1, 1)
    assert ufrags.read(ufrag, {}) is None
    assert ufrags.read(ufrag, {4: KEYS[3]}) is None
    assert ufrags.read(ufrag, {3: FleetKey.of(bytes(32))}) is None


def test_a_session_keeps_its_number_and_never_its_credentials() -> None:
    fresh = Mint(NumberedKey(3, SECRET), 9).session()
    made = [fresh() for _ in range(100)]
    assert len({one.ufrag for one in made}) == len({one.pwd for one in made}) == 100
    said = [ufrags.read(one.ufrag, KEYS) for one in made]
    assert len({one.session for one in said if one}) == 1
    credentials = [Credential(one.ufrag, one.pwd.encode()) for one in made[:2]]
    assert routable.session_of(credentials, KEYS) == 1 << 31 | said[0].session  # type: ignore[union-attr]
    other = Mint(NumberedKey(3, SECRET), 9).session()()
    with pytest.raises(RequestError) as caught:
        routable.session_of([credentials[0], Credential(other.ufrag, other.pwd.encode())], KEYS)
    assert caught.value.field == "credentials[1].ufrag"


def test_an_owner_is_hidden() -> None:
    """The same owner and nothing but: what stands in its place differs from ufrag to ufrag."""
    ufrags = [Mint(NumberedKey(3, SECRET), 7).credentials_of(n, 0)[0] for n in range(200)]
    assert len({ufrag[1:3] for ufrag in ufrags}) > 100


@pytest.mark.parametrize("content", ["", "00" * 31, "00" * 33, "zz" * 32])
def test_a_file_that_holds_no_key(tmp_path: Path, content: str) -> None:
    path = tmp_path / "key"
    path.write_text(content)
    with pytest.raises(ConfigError, match="hexadecimal"):
        routable.read_keys([FleetKeyFile(1, path)])
    with pytest.raises(FleetKeyError):
        NumberedKey.read(1, path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        routable.read_keys([FleetKeyFile(1, tmp_path / "key")])
    with pytest.raises(FleetKeyError, match="No such file"):
        NumberedKey.read(1, tmp_path / "key")
