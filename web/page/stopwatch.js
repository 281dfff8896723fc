// How long the network takes per frame: the last five seconds of each direction.

/** @typedef {import("./protocol.js").Cost} Cost */
/** @typedef {import("../src/network.js").Side} Side */

const KEPT = 250;
const EVERY = 200; // ms between reports

export class Stopwatch {
  /** @type {Record<Side, number[]>} */
  #times = { encoder: [], decoder: [] };
  #reported = 0;

  /** @param {(cost: {encode: Cost | null, decode: Cost | null}) => void} report */
  constructor(report) {
    this.report = report;
  }

  /** @param {Side} side @param {number} frames @param {number} ms */
  add(side, frames, ms) {
    const times = this.#times[side];
    for (let i = 0; i < frames; i++) times.push(ms / frames);
    if (times.length > KEPT) times.splice(0, times.length - KEPT);
    const now = performance.now();
    if (now - this.#reported < EVERY) return;
    this.#reported = now;
    this.report({ encode: summary(this.#times.encoder), decode: summary(this.#times.decoder) });
  }
}

/** @param {number[]} times @returns {Cost | null} */
function summary(times) {
  if (!times.length) return null;
  const sorted = [...times].sort((a, b) => a - b);
  const at = (/** @type {number} */ share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
  return { p50: at(0.5), p99: at(0.99), mean: times.reduce((a, b) => a + b) / times.length, frames: times.length };
}
