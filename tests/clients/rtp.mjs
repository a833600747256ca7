// SPDX-License-Identifier: Apache-2.0
// RTP (RFC 3550) for those who leave it to their user.

export const PAYLOAD_TYPE = 111;

/** A packet without extensions. */
export function rtp(payload, sequence, timestamp, ssrc) {
  const header = Buffer.alloc(12);
  header[0] = 0x80;
  header[1] = PAYLOAD_TYPE;
  header.writeUInt16BE(sequence & 0xffff, 2);
  header.writeUInt32BE(timestamp, 4);
  header.writeUInt32BE(ssrc, 8);
  return Buffer.concat([header, payload]);
}

/** Its payload; null if it is RTCP, or something else. */
export function payloadOf(packet) {
  if (packet.length < 12 || packet[0] >> 6 !== 2 || (packet[1] >= 192 && packet[1] < 224)) return null;
  let start = 12 + 4 * (packet[0] & 15);
  if (packet[0] & 16) start += 4 + 4 * packet.readUInt16BE(start + 2);
  const padding = packet[0] & 32 ? packet[packet.length - 1] : 0;
  return packet.subarray(start, packet.length - padding);
}
