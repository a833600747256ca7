# SPDX-License-Identifier: Apache-2.0
"""What data-channel messages are answered with."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transceiver.speech.echo import answer
from transceiver.speech.messages import MESSAGE_LIMIT


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ('{"a": [1, null]}', {"type": "echo", "data": {"a": [1, None]}}),
        ("7", {"type": "echo", "data": 7}),
        ("hello", {"type": "echo", "text": "hello"}),
        ("", {"type": "echo", "text": ""}),
        ("NaN", {"type": "echo", "text": "NaN"}),
        (b"\x00\xff", {"type": "echo", "base64": "AP8="}),
        (b"", {"type": "echo", "base64": ""}),
        ("[" * MESSAGE_LIMIT, {"type": "echo", "text": "[" * MESSAGE_LIMIT}),
        ("x" * (MESSAGE_LIMIT + 1), {"type": "error", "reason": "too_long", "limit": MESSAGE_LIMIT}),
        (bytes(MESSAGE_LIMIT + 1), {"type": "error", "reason": "too_long", "limit": MESSAGE_LIMIT}),
    ],
)
def test_messages_of_all_kinds_are_answered(message: str | bytes, expected: object) -> None:
    assert json.loads(answer(message)) == expected


@given(st.text() | st.binary())
def test_every_message_is_answered_with_json(message: str | bytes) -> None:
    assert json.loads(answer(message))["type"] == "echo"


def test_an_integer_of_thousands_of_digits_is_answered() -> None:
    digits = "9" * 10000  # more than Python converts
    assert json.loads(answer(digits)) == {"type": "echo", "text": digits}
