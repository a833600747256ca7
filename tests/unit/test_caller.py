# SPDX-License-Identifier: Apache-2.0
"""The caller: that it tells apart calls, and that a call that fails is a result like any other."""

from __future__ import annotations

import json

from aiohttp import web

from tests.lab.caller import Messenger, place_call, place_calls
from tests.unit.transceiver_world import CLIENT, running_relay, running_transceiver


class Channel:
    """What `Messenger` needs of a data channel."""

    def __init__(self) -> None:
        self.sent: list[str | bytes] = []
        self.handlers: dict[str, object] = {}

    def on(self, name: str, handler: object) -> None:
        self.handlers[name] = handler

    def send(self, message: str | bytes) -> None:
        self.sent.append(message)


async def test_calls_at_a_time_each_get_their_own_sound_back() -> None:
    async with running_relay() as relay, running_transceiver(relay) as transceiver:
        results = await place_calls(transceiver.whip, 4, 1.0, None, CLIENT)
    assert len(results) == 4
    for result in results:
        assert result.error is None
        assert result.audio_verified
        assert result.data_channel_verified
        assert result.setup_ms is not None
    assert len({session for _, session in relay.operations}) == 4


async def test_nobody_there_is_a_result() -> None:
    result = await place_call("http://127.0.0.1:1/whip", seconds=0.1, local_address=CLIENT)
    assert not result.connected
    assert not result.audio_verified
    assert result.error


async def test_a_refusal_is_a_result_that_says_why() -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=503, text="the table is full")

    app = web.Application()
    app.router.add_post("/whip", refuse)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    result = await place_call(f"http://127.0.0.1:{port}/whip", seconds=0.1, local_address=CLIENT)
    await runner.cleanup()
    assert result.error is not None
    assert "503: the table is full" in result.error


def test_answers_must_be_all_there_and_right() -> None:
    channel = Channel()
    messenger = Messenger(channel)
    opened, answered = channel.handlers["open"], channel.handlers["message"]
    assert callable(opened)
    assert callable(answered)
    opened()
    value, text, _ = channel.sent
    answered(json.dumps({"type": "echo", "data": json.loads(value)}))
    answered(json.dumps({"type": "echo", "text": text}))
    assert not messenger.verified
    answered('{"type": "echo", "base64": "AP8="}')
    assert messenger.verified
    answered("once too often")
    assert not messenger.verified
