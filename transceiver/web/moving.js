// SPDX-License-Identifier: Apache-2.0
// A call in the place of one that is about to end, made before that one is broken. Knows nothing of the page.

import { CallError } from "/page/call.js";

const LEAST = 15; // seconds that are taken for it, also where the old call is gone
const SOUND = 2000; // ms that the first sound may take; a backend that is silent has none
const PAUSE_FIRST = 250;
const PAUSE_MOST = 4000;

/**
 * @param {function(): Call} make a call that has not been started
 * @param {number} seconds that the old call has left
 * @param {function(): boolean} wanted whether it still is
 * @returns {Promise<Call|null>} one that is connected and whose sound has come; null if it is not wanted any more.
 *   Rejects with the last CallError when the time is over.
 */
export async function another(make, seconds, wanted) {
  const until = performance.now() + 1000 * Math.max(seconds, LEAST);
  for (let pause = PAUSE_FIRST; wanted(); pause = Math.min(2 * pause, PAUSE_MOST)) {
    const call = make();
    try {
      await connected(call);
      if (wanted()) return call;
      call.hangUp();
    } catch (error) {
      call.hangUp();
      const wait = Math.max(pause, 1000 * (error.retryAfter ?? 0)) * (0.5 + Math.random()); // not all at once
      if (performance.now() + wait > until) throw error;
      await new Promise((done) => setTimeout(done, wait));
    }
  }
  return null;
}

async function connected(call) {
  await new Promise((resolve, reject) => {
    call.addEventListener("state", ({ detail }) => {
      if (detail === "connected") resolve();
      // Whatever ended it may still say why.
      if (detail === "ended") setTimeout(() => reject(new CallError("lost", "The call ended before it was up.")));
    });
    call.addEventListener("failed", ({ detail }) => reject(detail));
    call.start().catch(reject);
  });
  const track = call.peer.getReceivers()[0]?.track;
  if (track?.muted) {
    await new Promise((done) => {
      track.addEventListener("unmute", done, { once: true });
      setTimeout(done, SOUND);
    });
  }
}
