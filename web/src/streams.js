// Streams: any number of samples or frames per push, the same codes whatever the cuts. Pushes may overlap; they are done in order.

import { Codes, concat, framesFor } from "./codes.js";
import { Concealment } from "./conceal.js";
import { AudioError, CodesError, StreamError } from "./errors.js";

/** @typedef {import("./codec.js").Codec} Codec */
/** @typedef {import("./network.js").State} State */

const LOUDEST = 32; // 30 dB beyond full scale: integers that were not divided, which a codec would make noise of

/** @param {Float32Array} samples */
export function checkSamples(samples) {
  const at = samples.findIndex((value) => !(Math.abs(value) <= LOUDEST)); // NaN, too
  if (at >= 0) throw new AudioError(`audio holds ${samples[at]} at sample ${at}; give finite samples in -1..1: divide 16-bit integers by 32768`);
  return samples;
}

class Stream {
  /** @type {Promise<unknown>} */
  #queue = Promise.resolve();
  #flushed = false;

  /** @param {Codec} codec @param {import("./network.js").Side} side */
  constructor(codec, side) {
    this.codec = codec;
    this.side = side;
    /** @type {State | null} */
    this.state = null; // zeros, until the first frame
    this.numFrames = 0;
  }

  /** Run `task` when all before it are done. @template T @param {(state: State) => Promise<T>} task @returns {Promise<T>} */
  async inOrder(task) {
    if (this.#flushed) throw new StreamError(`this ${this.side} was flushed; open a new one`);
    const done = this.#queue.then(async () => task((this.state ??= await this.codec.network.initialState(this.side))));
    this.#queue = done.catch(() => {});
    return done;
  }

  end() {
    this.#flushed = true;
  }
}

/** Samples at the model's rate in, codes out. `numSamples` counts what was pushed. */
export class Encoder extends Stream {
  #pending = new Float32Array(0);

  /** @param {Codec} codec @param {number | null} bitrate in bits per second, null for the highest */
  constructor(codec, bitrate) {
    super(codec, "encoder");
    this.numSamples = 0;
    this.numCodebooks = codec.codebooksFor(bitrate);
  }

  /** From the next frame on; the network's state goes on as it is. @param {number | null} bitrate */
  setBitrate(bitrate) {
    this.numCodebooks = this.codec.codebooksFor(bitrate);
  }

  /** Mono samples, any number, to the codes of all frames that are now complete. @param {Float32Array} samples */
  async push(samples) {
    checkSamples(samples);
    const used = this.numCodebooks; // of now: it may be another one when this push's turn comes
    return this.inOrder((state) => this.#push(samples, state, used));
  }

  /** The codes of what is left, after which the stream is over. All frames together decode to all samples. */
  async flush() {
    const used = this.numCodebooks;
    const done = this.inOrder(async (state) => {
      const { frameSize, delaySamples } = this.codec.info;
      const left = framesFor(this.numSamples, frameSize, delaySamples) - this.numFrames;
      const audio = new Float32Array(left * frameSize);
      audio.set(this.#pending);
      this.#pending = new Float32Array(0);
      return this.#encode(audio, state, used);
    });
    this.end();
    return done;
  }

  /** @param {Float32Array} samples @param {State} state @param {number} used codebooks */
  #push(samples, state, used) {
    this.numSamples += samples.length;
    const audio = concat(Float32Array, [this.#pending, samples]);
    const whole = audio.length - (audio.length % this.codec.info.frameSize);
    this.#pending = audio.slice(whole);
    return this.#encode(audio.subarray(0, whole), state, used);
  }

  /** @param {Float32Array} audio @param {State} state @param {number} used codebooks */
  async #encode(audio, state, used) {
    const all = this.codec.info.numCodebooks;
    if (!audio.length) return new Codes(new Int16Array(0), used);
    const { codes, state: after } = await this.codec.network.encode(audio, state);
    this.state = after;
    const result = new Codes(codes, all).first(used);
    this.numFrames += result.numFrames;
    return result;
  }
}

/** Codes in, samples out, `info.delaySamples` later than they went into the encoder; frames × frameSize in all. */
export class Decoder extends Stream {
  #concealment;

  /** @param {Codec} codec */
  constructor(codec) {
    super(codec, "decoder");
    this.#concealment = new Concealment(codec.info.frameSize, codec.info.frameRate);
  }

  /** Codes of any number of frames and of the codebooks that the model has to samples. @param {Codes} codes */
  async push(codes) {
    const { numCodebooks, codebookSize } = this.codec.info;
    if (codes.numCodebooks > numCodebooks) throw new CodesError(`codes have ${codes.numCodebooks} codebooks; this model has 1 to ${numCodebooks}`);
    const wrong = codes.data.find((value) => !(value >= 0 && value < codebookSize));
    if (wrong !== undefined) throw new CodesError(`codes hold ${wrong}; this model's are 0 to ${codebookSize - 1}`);
    const full = this.#absent(codes.numFrames);
    for (let t = 0; t < codes.numFrames; t++) {
      full.set(codes.data.subarray(t * codes.numCodebooks, (t + 1) * codes.numCodebooks), t * numCodebooks);
    }
    return this.inOrder((state) => this.#decode(full, false, state));
  }

  /**
   * Samples in place of frames that were lost: what probably came next, fading to background noise. The frame pushed next is the
   * one after those. @param {number} frames
   */
  async conceal(frames) {
    if (!(frames >= 0)) throw new StreamError(`${frames} frames to conceal; give 0 or more`);
    return this.inOrder((state) => this.#decode(this.#absent(frames), true, state));
  }

  /** Nothing is held back: an encoder's `flush` made the frames that carry the last samples. */
  async flush() {
    this.end();
    return new Float32Array(0);
  }

  /** The absent code is codebookSize, which 16 bits may not hold. @param {number} frames */
  #absent(frames) {
    return new Int32Array(frames * this.codec.info.numCodebooks).fill(this.codec.info.codebookSize);
  }

  /** @param {Int16Array | Int32Array} full [frames, all codebooks] @param {boolean} lost @param {State} state */
  async #decode(full, lost, state) {
    if (!full.length) return new Float32Array(0);
    const { audio, state: after } = await this.codec.network.decode(full, state);
    this.state = after;
    this.numFrames += full.length / this.codec.info.numCodebooks;
    const { frameSize } = this.codec.info;
    for (let at = 0; at < audio.length; at += frameSize) this.#concealment.apply(audio.subarray(at, at + frameSize), lost);
    return audio;
  }
}
