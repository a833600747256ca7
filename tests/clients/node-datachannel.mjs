// SPDX-License-Identifier: Apache-2.0
// libdatachannel, by node-datachannel.

import { setTimeout as sleep } from "node:timers/promises";
import library from "node-datachannel";
import { PAYLOAD_TYPE, payloadOf, rtp } from "./rtp.mjs";

const SSRC = 4711;

export async function open({ onAudio, onMessage, maxMessageSize }) {
  const peer = new library.PeerConnection("client", { iceServers: [], ...(maxMessageSize && { maxMessageSize }) });
  // It negotiates by itself as soon as there is something to negotiate; the last description holds all.
  let sdp = "";
  peer.onLocalDescription((description) => { sdp = description; });
  const audio = new library.Audio("0", "SendRecv");
  audio.addOpusCodec(PAYLOAD_TYPE);
  audio.addSSRC(SSRC, "client", "stream", "track");
  const track = peer.addTrack(audio);
  track.onMessage((packet) => {
    const payload = payloadOf(packet);
    if (payload) onAudio(payload);
  });
  const channel = peer.createDataChannel("earshot");
  channel.onMessage(onMessage);
  const connected = Promise.all([
    new Promise((resolve) => channel.onOpen(resolve)),
    new Promise((resolve) => track.onOpen(resolve)),
  ]);
  return {
    connected,
    offer: async () => {
      peer.setLocalDescription("offer");
      for (let tries = 0; tries < 100 && !(sdp.includes("m=audio") && sdp.includes("m=application")); tries++) await sleep(10);
      return sdp;
    },
    accept: async (answer) => peer.setRemoteDescription(answer, "answer"),
    sendAudio: (payload, number, timestamp) => track.sendMessageBinary(rtp(payload, number, timestamp, SSRC)),
    sendMessage: (text) => channel.sendMessage(text),
    waiting: () => channel.bufferedAmount(),
  };
}
