// SPDX-License-Identifier: Apache-2.0
// werift, which is written in TypeScript from the wire up.

import { MediaStreamTrack, RTCPeerConnection, RTCRtpCodecParameters } from "werift";
import { PAYLOAD_TYPE, rtp } from "./rtp.mjs";

const OPUS = new RTCRtpCodecParameters({ mimeType: "audio/opus", clockRate: 48000, channels: 2, payloadType: PAYLOAD_TYPE });

export async function open({ onAudio, onMessage }) {
  const peer = new RTCPeerConnection({ iceServers: [], codecs: { audio: [OPUS], video: [] }, bundlePolicy: "max-bundle" });
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
