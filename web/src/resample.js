// A streaming resampler: windowed sinc, one row of taps per phase. n samples in give round(n · to / from) out, whatever the cuts.

import { AudioError } from "./errors.js";

const ZEROS = 32; // zero crossings of the sinc on either side
const BETA = 9; // of the Kaiser window: side lobes below −90 dB
const ROLLOFF = 0.92; // cut-off as a share of the lower Nyquist frequency

export class Resampler {
  #up;
  #down;
  #half; // taps on either side of the centre
  #table; // [up, 2 · half]
  #kept; // input from #first on
  #first; // index of #kept[0] in the input
  #in = 0;
  #out = 0;

  /** @param {number} from Hz @param {number} to Hz */
  constructor(from, to) {
    for (const rate of [from, to]) {
      if (!(Number.isInteger(rate) && rate >= 1000 && rate <= 768000)) {
        throw new AudioError(`sample rate ${rate} Hz; give a whole number between 1000 and 768000`);
      }
    }
    const common = gcd(from, to);
    this.#up = to / common;
    this.#down = from / common;
    const cutoff = ROLLOFF * Math.min(1, to / from); // relative to the input's Nyquist frequency
    this.#half = Math.ceil(ZEROS / cutoff);
    this.#table = from === to ? new Float32Array(0) : taps(this.#up, this.#half, cutoff);
    this.#kept = new Float32Array(this.#half - 1); // silence before the first sample
    this.#first = 1 - this.#half;
  }

  /** @param {Float32Array} samples @param {boolean} [last] also give what needs samples after these, as if silence followed */
  push(samples, last = false) {
    this.#in += samples.length;
    if (this.#up === this.#down) return samples;
    const tail = last ? this.#half + 1 : 0;
    const input = new Float32Array(this.#kept.length + samples.length + tail);
    input.set(this.#kept);
    input.set(samples, this.#kept.length);
    const complete = Math.floor(((this.#in - this.#half - 1) * this.#up) / this.#down) + 1; // outputs whose taps have all come
    const stop = last ? Math.round((this.#in * this.#up) / this.#down) : Math.max(this.#out, complete);
    const output = new Float32Array(stop - this.#out);
    const width = 2 * this.#half;
    for (let i = 0; i < output.length; i++) {
      const place = (this.#out + i) * this.#down;
      const row = (place % this.#up) * width;
      const start = Math.floor(place / this.#up) - this.#half + 1 - this.#first;
      let sum = 0;
      for (let j = 0; j < width; j++) sum += this.#table[row + j] * input[start + j];
      output[i] = sum;
    }
    this.#out = stop;
    const next = Math.floor((stop * this.#down) / this.#up) - this.#half + 1; // the first input that is needed again
    this.#kept = input.slice(next - this.#first, this.#kept.length + samples.length);
    this.#first = next;
    return output;
  }
}

/** Mono samples at another rate, in one go. @param {Float32Array} samples @param {number} from @param {number} to */
export function resample(samples, from, to) {
  return new Resampler(from, to).push(samples, true);
}

/** @param {number} a @param {number} b @returns {number} */
function gcd(a, b) {
  return b ? gcd(b, a % b) : a;
}

/** @param {number} phases @param {number} half @param {number} cutoff */
function taps(phases, half, cutoff) {
  const table = new Float32Array(phases * 2 * half);
  for (let phase = 0; phase < phases; phase++) {
    const row = table.subarray(phase * 2 * half, (phase + 1) * 2 * half);
    let sum = 0;
    for (let j = 0; j < row.length; j++) {
      const t = j - half + 1 - phase / phases; // of the tap, relative to the output sample, in input samples
      const x = cutoff * Math.PI * t;
      row[j] = (x ? Math.sin(x) / x : 1) * (bessel(BETA * Math.sqrt(Math.max(0, 1 - (t / half) ** 2))) / bessel(BETA));
      sum += row[j];
    }
    for (let j = 0; j < row.length; j++) row[j] /= sum; // every phase passes a constant as it is
  }
  return table;
}

/** Modified Bessel function of order 0. @param {number} x */
function bessel(x) {
  let term = 1;
  let sum = 1;
  for (let k = 1; term > 1e-12 * sum; k++) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}
