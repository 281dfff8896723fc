// What a decoder plays while frames are missing; as in Python's runtime/conceal.py, but for the draw of the noise.
//
// The network's own extrapolation first. After 100 ms that is guesswork, so it fades out, and noise with the spectrum of the quietest
// moments heard so far fades in: silence would sound like a broken line.

import { Dft } from "./fourier.js";

const TRUSTED_SECONDS = 0.1; // how long the extrapolation is played at full level
const FADE_SECONDS = 0.1; // until only comfort noise is left
const RISE = 1.005; // per frame: how fast the estimate of the background follows when the quietest moments get louder
const NEAR = 2; // frames up to this much more energy than the background count as background

export class Concealment {
  #lost = 0; // frames in a row until now
  #gain = 1; // of the network's output at the end of the last frame
  #background = 0; // energy of a quiet frame; 0 while nothing was heard
  #spectrum; // its power per bin, in units of white noise
  #dft;

  /** @param {number} frameSize @param {number} frameRate */
  constructor(frameSize, frameRate) {
    this.frameRate = frameRate;
    this.#dft = new Dft(frameSize);
    this.#spectrum = new Float64Array(this.#dft.bins);
  }

  /** One frame of the network's output, changed in place to what is to be heard. @param {Float32Array} frame @param {boolean} lost */
  apply(frame, lost) {
    this.#lost = lost ? this.#lost + 1 : 0;
    if (!lost) this.#listen(frame);
    const before = this.#gain;
    const beyond = this.#lost / this.frameRate - TRUSTED_SECONDS;
    this.#gain = Math.min(1, Math.max(0, 1 - beyond / FADE_SECONDS));
    if (before === 1 && this.#gain === 1) return;
    const noise = this.#noise();
    for (let i = 0; i < frame.length; i++) {
      const ramp = before + ((this.#gain - before) * (i + 1)) / frame.length;
      frame[i] = ramp * frame[i] + Math.sqrt(Math.max(0, 1 - ramp * ramp)) * noise[i];
    }
  }

  /** Follow the background: at once when it gets quieter, slowly when it gets louder. @param {Float32Array} frame */
  #listen(frame) {
    let energy = 0;
    for (const value of frame) energy += value * value;
    if (this.#background > 0 && energy > NEAR * this.#background) {
      this.#background *= RISE;
      return;
    }
    const { re, im } = this.#dft.forward(frame);
    const weight = this.#background && energy > this.#background / NEAR ? 0.1 : 1;
    for (let k = 0; k < re.length; k++) this.#spectrum[k] += weight * ((re[k] ** 2 + im[k] ** 2) / frame.length - this.#spectrum[k]);
    this.#background += weight * (Math.max(energy, 1e-12) - this.#background);
  }

  /** A frame of noise like the background. */
  #noise() {
    const white = Float32Array.from({ length: this.#dft.size }, () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random()));
    const { re, im } = this.#dft.forward(white);
    for (let k = 0; k < re.length; k++) {
      const level = Math.sqrt(this.#spectrum[k]);
      re[k] *= level;
      im[k] *= level;
    }
    return this.#dft.inverse(re, im);
  }
}
