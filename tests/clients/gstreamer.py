# SPDX-License-Identifier: Apache-2.0
"""A call by GStreamer's webrtcbin, whose ICE is libnice: what call.mjs does, for an implementation in C.

    /usr/bin/python3 gstreamer.py WHIP-URL PACKETS-FILE

Of the system's Python: its bindings are Debian's. WHIP is done by hand, and webrtcbin's own threads do the
rest, so there is no main loop.
"""

from __future__ import annotations

import base64
import json
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstSdp", "1.0")
gi.require_version("GstWebRTC", "1.0")
from gi.repository import Gst, GstSdp, GstWebRTC  # noqa: E402  # their versions come first

SETUP_TIMEOUT = 15.0  # seconds
TAIL_TIMEOUT = 3.0  # for what is still on its way, here in a jitter buffer of 200 ms
FRAME = 0.02
QUESTION = '{"from": "gstreamer"}'
# A sender of packets that are encoded already. Max-bundle, so that there is one transport: by default
# webrtcbin would gather for each section.
PIPELINE = """
    webrtcbin name=peer bundle-policy=max-bundle
    appsrc name=microphone is-live=true format=time
        caps=audio/x-opus,rate=48000,channels=2,channel-mapping-family=0
    ! rtpopuspay pt=111
    ! application/x-rtp,media=audio,encoding-name=OPUS,clock-rate=48000,encoding-params=(string)2,payload=111
    ! peer.
"""


class Client:
    """One call; `returned` are those of the packets `sent` that came back, byte by byte."""

    def __init__(self, sent: set[bytes]) -> None:
        self.sent = sent
        self.returned: set[bytes] = set()
        self.opened = threading.Event()
        self.answered = threading.Event()
        self._gathered = threading.Event()
        self._pipeline = Gst.parse_launch(PIPELINE)
        self._peer = self._pipeline.get_by_name("peer")
        self._microphone = self._pipeline.get_by_name("microphone")
        self._peer.connect("notify::ice-gathering-state", self._on_gathering)
        self._peer.connect("pad-added", self._on_pad)
        self._pipeline.set_state(Gst.State.PLAYING)
        self._channel = self._peer.emit("create-data-channel", "earshot", None)
        self._channel.connect("on-open", lambda _: self.opened.set())
        self._channel.connect("on-message-string", self._on_message)

    def offer(self) -> str:
        """An offer with all its candidates."""
        promise = Gst.Promise.new()
        self._peer.emit("create-offer", None, promise)
        promise.wait()
        reply = promise.get_reply()  # what is in it lives as long as it does
        self._describe("set-local-description", reply.get_value("offer"))
        if not self._gathered.wait(SETUP_TIMEOUT):
            raise TimeoutError("candidates are not gathered")
        return str(self._peer.get_property("local-description").sdp.as_text())

    def accept(self, answer: str) -> None:
        result, sdp = GstSdp.SDPMessage.new_from_text(answer)
        if result != GstSdp.SDPResult.OK:
            raise ValueError("GStreamer cannot read the answer")
        self._describe(
            "set-remote-description",
            GstWebRTC.WebRTCSessionDescription.new(GstWebRTC.WebRTCSDPType.ANSWER, sdp),
        )

    def ask(self) -> None:
        self._channel.emit("send-string", QUESTION)

    def play(self, packet: bytes, number: int, frame: float = FRAME) -> None:
        """The packet of that number, of those that are `frame` seconds each."""
        buffer = Gst.Buffer.new_wrapped(packet)
        buffer.pts = round(number * frame * Gst.SECOND)
        buffer.duration = round(frame * Gst.SECOND)
        self._microphone.emit("push-buffer", buffer)

    def state(self) -> str:
        """Where libnice says that the call stands: its checks' outcome."""
        return str(self._peer.get_property("ice-connection-state").value_nick)

    def close(self) -> None:
        self._pipeline.set_state(Gst.State.NULL)

    def _describe(self, signal: str, description: Any) -> None:
        promise = Gst.Promise.new()
        self._peer.emit(signal, description, promise)
        promise.wait()

    def _on_gathering(self, peer: Any, _: Any) -> None:
        if peer.get_property("ice-gathering-state") == GstWebRTC.WebRTCICEGatheringState.COMPLETE:
            self._gathered.set()

    def _on_pad(self, _: Any, pad: Any) -> None:
        """The other side's sound: packets are taken as they come, and not decoded."""
        if pad.get_direction() != Gst.PadDirection.SRC:
            return
        ear = Gst.parse_bin_from_description(
            "rtpopusdepay ! appsink name=ear emit-signals=true sync=false", True
        )
        ear.get_by_name("ear").connect("new-sample", self._on_sample)
        self._pipeline.add(ear)
        ear.sync_state_with_parent()
        pad.link(ear.get_static_pad("sink"))

    def _on_sample(self, sink: Any) -> Any:
        buffer = sink.emit("pull-sample").get_buffer()
        self.heard(buffer.extract_dup(0, buffer.get_size()))
        return Gst.FlowReturn.OK

    def heard(self, packet: bytes) -> None:
        """Takes a packet that came."""
        if packet in self.sent:
            self.returned.add(packet)

    def _on_message(self, _: Any, text: str) -> None:
        answer = json.loads(text)
        if answer.get("type") == "echo" and answer.get("data") == json.loads(QUESTION):
            self.answered.set()


def request(method: str, url: str, body: str | None = None) -> tuple[int, str, str]:
    """Status, Location and body."""
    data = None if body is None else body.encode()
    made = urllib.request.Request(url, data, {"Content-Type": "application/sdp"}, method=method)
    with urllib.request.urlopen(made, timeout=SETUP_TIMEOUT) as response:
        return response.status, response.headers.get("Location", ""), response.read().decode()


def main(whip: str, file: str) -> None:
    Gst.init(None)
    packets = [base64.b64decode(text) for text in json.loads(Path(file).read_text())]
    result: dict[str, object] = {"implementation": "gstreamer"}
    client = Client(set(packets))
    try:
        _, location, answer = request("POST", whip, client.offer())
        client.accept(answer)
        result["connected"] = client.opened.wait(SETUP_TIMEOUT)
        result["sent"] = 0
        if result["connected"]:
            client.ask()
            started = time.monotonic()
            for number, packet in enumerate(packets):
                time.sleep(max(0.0, started + number * FRAME - time.monotonic()))
                client.play(packet, number)
            result["sent"] = len(packets)
            until = time.monotonic() + TAIL_TIMEOUT
            while client.returned != client.sent and time.monotonic() < until:
                time.sleep(0.05)
        result["deleted"], _, _ = request("DELETE", urljoin(whip, location))
    finally:
        client.close()
    result |= {
        "data": client.answered.is_set(),
        "returned": len(client.returned),
        "distinct": len(client.sent),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
