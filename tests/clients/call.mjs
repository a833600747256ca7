// SPDX-License-Identifier: Apache-2.0
// A call by an implementation of WebRTC that is not a browser's: sends Opus packets that it is given, takes what
// comes back, and prints what became of it as JSON.
//
//     node call.mjs IMPLEMENTATION WHIP-URL PACKETS-FILE
//
// PACKETS-FILE holds a JSON array of Opus packets of 20 ms in base64. The echo returns them as they are, so that
// "returned" counts those of them that came back, byte by byte.

import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";

const [implementation, whip, file] = process.argv.slice(2);
const SETUP_TIMEOUT = 15_000; // ms
const DEADLINE = 30_000; // ms for all of it
const TAIL = 500; // ms for what is still on its way
const QUESTION = { from: implementation };
const FRAME = 960; // samples

const packets = JSON.parse(await readFile(file, "utf8")).map((text) => Buffer.from(text, "base64"));
setTimeout(() => process.exit(3), DEADLINE).unref();
const { open } = await import(`./${implementation}.mjs`);
const result = { implementation, connected: false, sent: 0, returned: 0, data: false, status: 0 };
const sent = new Set(packets.map((packet) => packet.toString("base64")));
const returned = new Set();

const client = await open({
  onAudio: (payload) => sent.has(payload.toString("base64")) && returned.add(payload.toString("base64")),
  onMessage: (text) => {
    const answer = JSON.parse(text);
    result.data ||= answer.type === "echo" && answer.data?.from === implementation;
  },
});
const response = await fetch(whip, { method: "POST", body: await client.offer(), headers: { "Content-Type": "application/sdp" } });
result.status = response.status;
const answer = await response.text();
if (response.status !== 201) throw new Error(`POST was answered ${response.status}: ${answer}`);
await client.accept(answer);
const connected = await Promise.race([client.connected.then(() => true), sleep(SETUP_TIMEOUT, false)]);
result.connected = connected;
if (connected) {
  client.sendMessage(JSON.stringify(QUESTION));
  const started = performance.now();
  for (const [number, packet] of packets.entries()) {
    await sleep(Math.max(0, started + number * 20 - performance.now()));
    client.sendAudio(packet, number, (number * FRAME) >>> 0);
    result.sent += 1;
  }
  await sleep(TAIL);
}
const deleted = await fetch(new URL(response.headers.get("Location"), whip), { method: "DELETE" });
result.deleted = deleted.status;
result.returned = returned.size;
result.distinct = sent.size;
console.log(JSON.stringify(result));
process.exit(0);
