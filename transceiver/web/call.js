// SPDX-License-Identifier: Apache-2.0
// A call by WHIP (RFC 9725). Knows nothing of the page: what happens is dispatched as events of the object.
//
//   state     detail: "connecting", "connected", "lost" or "ended"
//   message   detail: what came over the data channel, parsed
//   track     detail: the MediaStream to play
//   failed    detail: a CallError, after which the call has ended

const CONNECT_TIMEOUT = 15000;
const RESTART_AFTER = 1500; // ms of "disconnected" until ICE is restarted
const GIVE_UP_AFTER = 20000; // ms of it until the call is over
const SDPFRAG = "application/trickle-ice-sdpfrag";

/** Something to tell a person; `code` for programs. */
export class CallError extends Error {
  constructor(code, message, retryAfter = 0) {
    super(message);
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

export class Call extends EventTarget {
  #peer = new RTCPeerConnection({ iceServers: [], bundlePolicy: "max-bundle" });
  #headers;
  #endpoint;
  #resource = null;
  #etag = "*";
  #channel;
  #ended = false;
  #timers = new Set();

  /** @param {string} endpoint where to post @param {MediaStream} microphone @param {string} token or empty */
  constructor(endpoint, microphone, token) {
    super();
    this.#endpoint = new URL(endpoint, location.href);
    this.#headers = token ? { Authorization: `Bearer ${token}` } : {};
    for (const track of microphone.getTracks()) this.#peer.addTrack(track, microphone);
    this.#channel = this.#peer.createDataChannel("earshot");
    this.#channel.onmessage = ({ data }) => this.#emit("message", parsed(data));
    this.#channel.onclose = () => this.#close(); // the other side has said good-bye
    this.#peer.ontrack = ({ streams, track }) => this.#emit("track", streams[0] ?? new MediaStream([track]));
    this.#peer.onconnectionstatechange = () => this.#changed();
  }

  get peer() { return this.#peer; }

  get ended() { return this.#ended; }

  /** Address and port that media goes to, once there is an answer. */
  get path() {
    const line = /^a=candidate:\S+ \d+ udp \d+ (\S+) (\d+)/im.exec(this.#peer.remoteDescription?.sdp ?? "");
    return line && (line[1].includes(":") ? `[${line[1]}]:${line[2]}` : `${line[1]}:${line[2]}`);
  }

  /** Offers; rejects with a CallError. The call is up when its state is "connected". */
  async start() {
    this.#emit("state", "connecting");
    try {
      await this.#peer.setLocalDescription();
      const response = await this.#request("POST", this.#endpoint, "application/sdp", this.#peer.localDescription.sdp);
      const answer = await response.text();
      this.#resource = new URL(response.headers.get("Location"), this.#endpoint);
      this.#etag = response.headers.get("ETag") ?? "*";
      if (this.#ended) return void this.#delete(); // hung up meanwhile
      await this.#peer.setRemoteDescription({ type: "answer", sdp: answer });
    } catch (error) {
      this.#close();
      if (this.#ended && !(error instanceof CallError)) return;
      throw error instanceof CallError ? error : new CallError("failed", `The call could not be set up: ${error.message}`);
    }
    this.#after(CONNECT_TIMEOUT, () => {
      if (this.#peer.connectionState !== "connected") this.#fail("unreachable", this.#unreachable());
    });
  }

  send(value) {
    if (this.#channel.readyState === "open") this.#channel.send(JSON.stringify(value));
  }

  /** Sends another microphone's sound from now on; nothing is negotiated for it. */
  async speakInto(microphone) {
    await Promise.all(this.#peer.getSenders().map((sender) => sender.replaceTrack(microphone.getAudioTracks()[0])));
  }

  /**
   * New ICE credentials on both sides; media goes on meanwhile. Rejects with a CallError, and then nothing has changed.
   *
   * The offer is used only once it is answered: from then on the browser opens new ports, and what it opens while it
   * has the old credentials of the other side goes on with those.
   */
  async restartIce() {
    this.#peer.restartIce();
    const offer = await this.#peer.createOffer();
    const response = await this.#request("PATCH", this.#resource, SDPFRAG, fragmentOf(offer.sdp), { "If-Match": this.#etag });
    const theirs = await response.text();
    this.#etag = response.headers.get("ETag") ?? "*";
    const answer = withCredentials(this.#peer.remoteDescription.sdp, theirs);
    await Promise.all([
      this.#peer.setLocalDescription(offer),
      this.#peer.setRemoteDescription({ type: "answer", sdp: answer }),
    ]);
  }

  hangUp() {
    if (this.#ended) return;
    this.#delete();
    this.#close();
  }

  async #request(method, url, type, body, more = {}) {
    let response;
    try {
      response = await fetch(url, { method, body, headers: { ...this.#headers, "Content-Type": type, ...more } });
    } catch {
      throw new CallError("no_transceiver", "The transceiver does not answer. It may be down, or this device may be offline.");
    }
    if (response.ok) return response;
    const detail = (await response.json().catch(() => ({}))).detail ?? `it answered ${response.status}`;
    if (response.status === 401) throw new CallError("token", "This transceiver wants an access token, and this is none of its.");
    if (response.status === 503) {
      const seconds = Number(response.headers.get("Retry-After")) || 5;
      throw new CallError("full", `The transceiver has no room for another call just now: ${detail}. Try again in a moment.`, seconds);
    }
    throw new CallError("refused", `The transceiver refused the call: ${detail}.`);
  }

  #changed() {
    switch (this.#peer.connectionState) {
      case "connected":
        return this.#emit("state", "connected");
      case "disconnected":
        this.#emit("state", "lost");
        this.#after(RESTART_AFTER, () => this.#again());
        return this.#after(GIVE_UP_AFTER, () => {
          if (this.#peer.connectionState !== "connected") this.#fail("lost", "The connection was lost, and could not be made again.");
        });
      case "failed":
        return this.#fail(this.#resource ? "lost" : "failed", this.#peer.iceConnectionState === "failed"
          ? this.#unreachable() : "The connection failed.");
    }
  }

  async #again() {
    if (this.#peer.connectionState !== "disconnected") return;
    try {
      await this.restartIce();
    } catch (error) {
      if (error instanceof CallError && error.code === "refused") this.#fail("lost", "The other side has ended the call.");
    }
  }

  #unreachable() {
    return `The relay cannot be reached: no answer from ${this.path ?? "it"} over UDP. A firewall may be in the way.`;
  }

  #fail(code, message) {
    if (this.#ended) return;
    this.hangUp();
    this.#emit("failed", new CallError(code, message));
  }

  #close() {
    if (this.#ended) return;
    this.#ended = true;
    for (const timer of this.#timers) clearTimeout(timer);
    this.#peer.close();
    this.#emit("state", "ended");
  }

  #delete() {
    if (this.#resource) fetch(this.#resource, { method: "DELETE", headers: this.#headers, keepalive: true }).catch(() => {});
  }

  #after(milliseconds, then) {
    const timer = setTimeout(() => { this.#timers.delete(timer); if (!this.#ended) then(); }, milliseconds);
    this.#timers.add(timer);
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

function parsed(data) {
  try {
    return JSON.parse(data);
  } catch {
    return { type: "text", text: String(data) };
  }
}

/** Of an offer, what restarts ICE (RFC 9725, 4.3.3). */
function fragmentOf(sdp) {
  const lines = sdp.split(/\r?\n/);
  const first = (prefix) => lines.find((line) => line.startsWith(prefix));
  return [first("a=group:BUNDLE"), first("m="), first("a=mid:"), first("a=ice-ufrag:"), first("a=ice-pwd:")]
    .filter(Boolean).map((line) => `${line}\r\n`).join("");
}

/** An answer with the credentials of a fragment. */
function withCredentials(answer, fragment) {
  const of = (name) => new RegExp(`^a=${name}:.*$`, "m").exec(fragment)[0].trim();
  return answer.replace(/^a=ice-ufrag:.*$/gm, of("ice-ufrag")).replace(/^a=ice-pwd:.*$/gm, of("ice-pwd"));
}
