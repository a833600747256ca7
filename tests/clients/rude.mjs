// SPDX-License-Identifier: Apache-2.0
// A client (libdatachannel, which is fast) that does what it should not: as soon as it is connected it sends very
// many short messages, as fast as the other side acknowledges them, and then a very long one. Prints as JSON what
// it was answered, by type and reason.
//
//     node rude.mjs WHIP-URL MESSAGES BYTES
//
// It is over when the one polite message that follows is answered: a channel keeps order, and so all before it
// has been taken.

import { setTimeout as sleep } from "node:timers/promises";
import { open } from "./node-datachannel.mjs";

const [whip, messages, bytes] = process.argv.slice(2);
const DEADLINE = 90_000; // ms for all of it
const SETUP_TIMEOUT = 15_000; // ms
const WAITING = 1 << 20; // bytes handed to the library and not sent yet
const LAST = { from: "rude" };

setTimeout(() => process.exit(3), DEADLINE).unref();
const result = { connected: false, sent: 0, flooded_ms: 0, answers: {} };
let answered;
const done = new Promise((resolve) => { answered = resolve; });
const client = await open({
  maxMessageSize: Number(bytes), // it sends no more than it would take
  onAudio: () => {},
  onMessage: (text) => {
    const answer = JSON.parse(text);
    const kind = [answer.type, answer.reason].filter(Boolean).join(" ");
    result.answers[kind] = (result.answers[kind] ?? 0) + 1;
    if (answer.data?.from === LAST.from) answered();
  },
});
const response = await fetch(whip, { method: "POST", body: await client.offer(), headers: { "Content-Type": "application/sdp" } });
const answer = await response.text();
if (response.status !== 201) throw new Error(`POST was answered ${response.status}: ${answer}`);
// The library would keep to the longest message that the other side says it takes.
await client.accept(answer.replace(/a=max-message-size:\d+/, `a=max-message-size:${bytes}`));
result.connected = await Promise.race([client.connected.then(() => true), sleep(SETUP_TIMEOUT, false)]);
if (result.connected) {
  const started = performance.now();
  while (result.sent < Number(messages)) {
    client.sendMessage('{"flood": true}');
    result.sent += 1;
    while (client.waiting() > WAITING) await sleep(1);
  }
  client.sendMessage("x".repeat(Number(bytes)));
  while (client.waiting() > 0) await sleep(10);
  result.flooded_ms = Math.round(performance.now() - started);
  // What is polite after a flood waits until messages are taken again.
  await sleep(500);
  client.sendMessage(JSON.stringify(LAST));
  await done;
}
const deleted = await fetch(new URL(response.headers.get("Location"), whip), { method: "DELETE" });
result.deleted = deleted.status;
console.log(JSON.stringify(result));
process.exit(0);
