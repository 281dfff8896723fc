import { CodesError } from "./errors.js";

/**
 * What a clip's codes stand for, as far as it is known.
 * @typedef {object} About
 * @property {number} numSamples length of the audio at `sampleRate`; decoding returns exactly as many
 * @property {number} sampleRate in Hz
 * @property {number} frameSize samples per frame
 * @property {number} bitsPerCode
 * @property {string} model its name
 * @property {string} modelHash 16 hexadecimal digits: codes mean nothing to another model
 */

/**
 * Codes of some frames: `data` is [frames, codebooks], frame after frame, as in a `.stk`. (Python's array is the transpose.)
 * Values are 0 … codebookSize − 1.
 */
export class Codes {
  /** @param {Int16Array} data @param {number} numCodebooks @param {About | null} [about] of a whole clip */
  constructor(data, numCodebooks, about = null) {
    if (!(numCodebooks >= 1 && data.length % numCodebooks === 0)) {
      throw new CodesError(`${data.length} codes are no whole frames of ${numCodebooks} codebooks`);
    }
    this.data = data;
    this.numCodebooks = numCodebooks;
    this.about = about;
  }

  get numFrames() {
    return this.data.length / this.numCodebooks;
  }

  /** The code of codebook `k` in frame `t`. @param {number} k @param {number} t */
  at(k, t) {
    return this.data[t * this.numCodebooks + k];
  }

  /** The frames from `start` up to `stop`. @param {number} start @param {number} [stop] */
  frames(start, stop = this.numFrames) {
    return new Codes(this.data.slice(start * this.numCodebooks, stop * this.numCodebooks), this.numCodebooks);
  }

  /** The first `k` codebooks: the same clip at a lower bitrate, for the quantiser is residual. @param {number} k */
  first(k) {
    if (!(k >= 1 && k <= this.numCodebooks)) throw new CodesError(`${k} of ${this.numCodebooks} codebooks are wanted`);
    const data = new Int16Array(this.numFrames * k);
    for (let t = 0; t < this.numFrames; t++) {
      data.set(this.data.subarray(t * this.numCodebooks, t * this.numCodebooks + k), t * k);
    }
    return new Codes(data, k, this.about);
  }
}

/** Frames that cover `numSamples`: the last sample must have left the decoder, which is `delaySamples` late.
 * @param {number} numSamples @param {number} frameSize @param {number} delaySamples */
export function framesFor(numSamples, frameSize, delaySamples) {
  return numSamples ? Math.ceil((numSamples + delaySamples) / frameSize) : 0;
}

/**
 * Arrays of one kind in a row. @template {Int16Array | Float32Array | Uint8Array} A @param {A[]} parts
 * @param {new (length: number) => A} kind @returns {A}
 */
export function concat(kind, parts) {
  const out = new kind(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
