// SPDX-License-Identifier: Apache-2.0
// werift, which is written in TypeScript from the wire up.

import { createSocket } from "node:dgram";
import { once } from "node:events";
import { MediaStreamTrack, RTCPeerConnection, RTCRtpCodecParameters } from "werift";
import { PAYLOAD_TYPE, rtp } from "./rtp.mjs";

const OPUS = new RTCRtpCodecParameters({ mimeType: "audio/opus", clockRate: 48000, channels: 2, payloadType: PAYLOAD_TYPE });

const BINDING_RESPONSE = 0x0101, XOR_MAPPED_ADDRESS = 0x0020, IPV4 = 1, COOKIE = [0x21, 0x12, 0xa4, 0x42]; // RFC 8489

// A STUN server on this host. Told of none, werift asks a public one, which is not there, and waits for its answer.
async function stunServer() {
  const server = createSocket("udp4");
  server.on("message", (request, { address, port }) => {
    const answer = Buffer.alloc(32);
    answer.writeUInt16BE(BINDING_RESPONSE, 0);
    answer.writeUInt16BE(12, 2); // bytes behind the header
    request.copy(answer, 4, 4, 20); // cookie and transaction
    answer.writeUInt16BE(XOR_MAPPED_ADDRESS, 20);
    answer.writeUInt16BE(8, 22);
    answer.writeUInt8(IPV4, 25);
    answer.writeUInt16BE(port ^ 0x2112, 26);
    address.split(".").forEach((byte, at) => answer.writeUInt8(Number(byte) ^ COOKIE[at], 28 + at));
    server.send(answer, port, address);
  });
  server.bind(0, "127.0.0.1");
  await once(server, "listening");
  return `stun:127.0.0.1:${server.address().port}`;
}

export async function open({ onAudio, onMessage }) {
  const peer = new RTCPeerConnection({ iceServers: [{ urls: await stunServer() }], codecs: { audio: [OPUS], video: [] }, bundlePolicy: "max-bundle" });
  const track = new MediaStreamTrack({ kind: "audio" });
  peer.onTrack.subscribe((theirs) => theirs.onReceiveRtp.subscribe((packet) => onAudio(Buffer.from(packet.payload))));
  peer.addTrack(track);
  const channel = peer.createDataChannel("earshot");
  channel.onMessage.subscribe((data) => onMessage(data.toString()));
  const connected = new Promise((resolve) => channel.stateChanged.subscribe((state) => state === "open" && resolve()));
  await peer.setLocalDescription(await peer.createOffer());
  return {
    connected,
    offer: async () => peer.localDescription.sdp,
    accept: (answer) => peer.setRemoteDescription({ type: "answer", sdp: answer }),
    sendAudio: (payload, number, timestamp) => track.writeRtp(rtp(payload, number, timestamp, 4711)),
    sendMessage: (text) => channel.send(text),
  };
}
