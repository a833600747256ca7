// SPDX-License-Identifier: Apache-2.0
// How good a connection is, by getStats, as numbers and small graphs; and how loud a stream is.

const POINTS = 60;
const SVG = "http://www.w3.org/2000/svg";

/** A number with the graph of its last minute. */
export class Graph {
  #values = [];
  #name;
  #text;
  #line;
  #svg;

  /** @param {HTMLElement} element shows the number; the graph is put after it. `ceiling`: the least that fills it. */
  constructor(element, ceiling) {
    this.ceiling = ceiling;
    this.element = element;
    this.#name = element.previousElementSibling.textContent;
    this.#text = element.appendChild(document.createElement("span"));
    element.firstChild.remove();
    this.#svg = element.parentElement.appendChild(document.createElementNS(SVG, "svg"));
    this.#svg.setAttribute("viewBox", `0 0 ${POINTS - 1} 30`);
    this.#svg.setAttribute("preserveAspectRatio", "none");
    this.#svg.setAttribute("role", "img");
    this.#line = this.#svg.appendChild(document.createElementNS(SVG, "polyline"));
    this.show(null);
  }

  /** @param {number|null} value null where there is none, which leaves a gap */
  show(value) {
    this.#values = [...this.#values, value].slice(-POINTS);
    const unit = this.element.dataset.unit;
    this.#text.textContent = value === null ? "–" : `${value < 10 ? value.toFixed(1) : Math.round(value)} ${unit}`;
    const known = this.#values.filter((one) => one !== null);
    const top = Math.max(this.ceiling, ...known);
    const start = POINTS - this.#values.length;
    this.#line.setAttribute("points", this.#values
      .map((one, index) => (one === null ? null : `${start + index},${(29 - (one / top) * 28).toFixed(1)}`))
      .filter(Boolean).join(" "));
    const range = known.length ? `${Math.min(...known).toFixed(1)} to ${Math.max(...known).toFixed(1)} ${unit} in the last minute` : "nothing measured yet";
    this.#svg.setAttribute("aria-label", `${this.#name}, ${range}`);
  }

  clear() {
    this.#values = [];
    this.show(null);
  }
}

/** Reads a connection; each call tells of the time since the one before. */
export class Quality {
  #received = 0;
  #lost = 0;

  constructor(peer) { this.peer = peer; }

  /** @returns milliseconds, per cent, milliseconds; null where there is nothing to tell */
  async read() {
    let rtt = null, jitter = null, loss = null;
    for (const entry of (await this.peer.getStats()).values()) {
      if (entry.type === "candidate-pair" && entry.nominated && entry.currentRoundTripTime !== undefined) {
        rtt ??= entry.currentRoundTripTime * 1000;
      } else if (entry.type === "remote-inbound-rtp" && entry.roundTripTime !== undefined) {
        rtt = entry.roundTripTime * 1000; // of media, and so more recent
      } else if (entry.type === "inbound-rtp" && entry.kind === "audio") {
        const received = entry.packetsReceived - this.#received;
        const lost = Math.max(0, entry.packetsLost - this.#lost);
        [this.#received, this.#lost] = [entry.packetsReceived, entry.packetsLost];
        if (received + lost > 0) {
          loss = (lost / (received + lost)) * 100;
          jitter = entry.jitter * 1000;
        }
      }
    }
    return { rtt, loss, jitter };
  }
}

/** Shows how loud streams are in meter elements, for as long as they are watched. */
export class Levels {
  #context = null;
  #watched = new Map();
  #timer = null;

  watch(stream, meter) {
    this.#context ??= new AudioContext();
    const analyser = this.#context.createAnalyser();
    analyser.fftSize = 1024;
    this.#context.createMediaStreamSource(stream).connect(analyser);
    this.#watched.set(meter, analyser);
    this.#timer ??= setInterval(() => this.#show(), 100);
  }

  stop() {
    clearInterval(this.#timer);
    this.#context?.close();
    for (const meter of this.#watched.keys()) meter.value = 0;
    this.#context = this.#timer = null;
    this.#watched.clear();
  }

  #show() {
    const samples = new Float32Array(1024);
    for (const [meter, analyser] of this.#watched) {
      analyser.getFloatTimeDomainData(samples);
      const power = samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length;
      meter.value = Math.min(1, Math.sqrt(power) * 4);
    }
  }
}
