// A clip: samples and the codes of all its frames, growing while it is recorded or encoded.

import { Codes, concat } from "../src/codes.js";
import { Header, Writer } from "../src/stk.js";

/** @typedef {import("../src/codec.js").Info} Info */

export class Clip {
  complete = false;
  note = "";
  part = 0; // of the recordings of a file
  parts = 1;
  /** @type {Record<string, string>} */
  metadata = {};
  numSamples = 0;
  numFrames = 0;
  #original;
  #codes;
  #widths; // codebooks that a frame has; 0 for a frame that was lost

  /** @param {Info} info @param {boolean} hasOriginal @param {number} [codebooks] the most that any frame has */
  constructor(info, hasOriginal, codebooks = info.numCodebooks) {
    this.info = info;
    this.codebooks = codebooks;
    this.#original = hasOriginal ? new Float32Array(0) : null;
    this.#codes = new Int16Array(0);
    this.#widths = new Uint8Array(0);
  }

  get hasOriginal() {
    return this.#original !== null;
  }

  /** @param {Float32Array} samples */
  addSamples(samples) {
    if (!this.#original) return;
    if (this.numSamples + samples.length > this.#original.length) this.#original = grown(this.#original, this.numSamples + samples.length);
    this.#original.set(samples, this.numSamples);
    this.numSamples += samples.length;
  }

  /** @param {Codes} codes */
  addCodes(codes) {
    const all = this.info.numCodebooks;
    this.#reserve(codes.numFrames);
    for (let t = 0; t < codes.numFrames; t++, this.numFrames++) {
      this.#codes.set(codes.data.subarray(t * codes.numCodebooks, (t + 1) * codes.numCodebooks), this.numFrames * all);
      this.#widths[this.numFrames] = codes.numCodebooks;
    }
  }

  /** @param {number} frames */
  addLost(frames) {
    this.#reserve(frames);
    this.numFrames += frames;
  }

  /** The codes of frame `t`, at most `most` codebooks; none when it is lost. @param {number} t @param {number} most */
  frame(t, most) {
    const all = this.info.numCodebooks;
    return this.#codes.slice(t * all, t * all + Math.min(this.#widths[t], most));
  }

  /** The original's samples from `start` on, silence behind its end. @param {number} start @param {number} length */
  samples(start, length) {
    if (!this.#original) return null;
    const out = new Float32Array(length);
    out.set(this.#original.subarray(start, Math.min(start + length, this.numSamples)));
    return out;
  }

  /** The `.stk` at `codebooks` codebooks, as `spectok encode` writes it. Lost frames become frames of one code. @param {number} codebooks */
  stk(codebooks) {
    const { info } = this;
    const used = Math.min(codebooks, this.codebooks);
    /** @type {Uint8Array[]} */
    const records = [];
    const header = new Header({ ...info, model: info.name, numCodebooks: used });
    const writer = new Writer((record) => records.push(record), header, { index: true, metadata: this.metadata });
    for (let t = 0; t < this.numFrames; t++) {
      const frame = this.frame(t, used);
      writer.write(frame.length ? new Codes(frame, frame.length) : new Codes(new Int16Array(1), 1));
    }
    writer.close(this.numSamples);
    return concat(Uint8Array, records);
  }

  /** @param {number} frames */
  #reserve(frames) {
    const all = this.info.numCodebooks;
    if (this.numFrames + frames > this.#widths.length) {
      this.#widths = grown(this.#widths, this.numFrames + frames);
      this.#codes = grown(this.#codes, this.#widths.length * all);
    }
  }
}

/** At least `length` long, twice as long as before. @template {Float32Array | Int16Array | Uint8Array} A @param {A} array @param {number} length
 * @returns {A} */
function grown(array, length) {
  const larger = /** @type {A} */ (new /** @type {any} */ (array.constructor)(Math.max(1024, 2 * array.length, length)));
  larger.set(array);
  return larger;
}
