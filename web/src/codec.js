// The codec as people use it: load a model, encode, decode, open streams.

import { Codes, concat, framesFor } from "./codes.js";
import { BitrateError, CodesError, ModelError } from "./errors.js";
import { Network } from "./network.js";
import { resample } from "./resample.js";
import { Decoder, Encoder, checkSamples } from "./streams.js";

/**
 * What a model is. Lengths in samples at `sampleRate`, bitrates in bits per second.
 * @typedef {object} Info
 * @property {string} name
 * @property {number} sampleRate
 * @property {number} frameSize
 * @property {number} frameRate
 * @property {number} numCodebooks
 * @property {number} codebookSize
 * @property {number} bitsPerCode
 * @property {number[]} bitrates
 * @property {number} delaySamples how much later than its input a sample leaves the decoder
 * @property {string} modelHash
 */

/** One model. Holds no state of any stream. */
export class Codec {
  /** Use `load`. @param {Network} network */
  constructor(network) {
    const c = network.config;
    const bitsPerCode = Math.log2(c.codebook_size);
    const frameRate = c.sample_rate / network.frameSize;
    this.network = network;
    /** @type {Info} */
    this.info = {
      name: c.name,
      sampleRate: c.sample_rate,
      frameSize: network.frameSize,
      frameRate,
      numCodebooks: c.num_codebooks,
      codebookSize: c.codebook_size,
      bitsPerCode,
      bitrates: Array.from({ length: c.num_codebooks }, (_, k) => Math.round((k + 1) * bitsPerCode * frameRate)),
      delaySamples: c.window_length - c.hop_length,
      modelHash: network.contentHash,
    };
  }

  /** What is meant where no bitrate is given: 4 kbit/s, or the highest of a model that has not got that. */
  get defaultBitrate() {
    const rates = this.info.bitrates;
    return rates.includes(4000) ? 4000 : rates[rates.length - 1];
  }

  /** How many codebooks make up `bitrate` bits per second (all, for null). @param {number | null} bitrate */
  codebooksFor(bitrate) {
    const rates = this.info.bitrates;
    if (bitrate === null) return rates.length;
    const index = rates.indexOf(bitrate);
    if (index < 0) throw new BitrateError(`bitrate ${bitrate} bps; model '${this.info.name}' has ${rates.join(", ")}`);
    return index + 1;
  }

  /**
   * Mono samples at any rate to codes. @param {Float32Array} audio in −1…1 @param {number} sampleRate in Hz
   * @param {{bitrate?: number | null}} [options] bits per second, by default 4000 where the model has that; null is the highest
   */
  async encode(audio, sampleRate, { bitrate = this.defaultBitrate } = {}) {
    const { info } = this;
    const signal = resample(checkSamples(audio), sampleRate, info.sampleRate);
    const k = this.codebooksFor(bitrate);
    const padded = new Float32Array(framesFor(signal.length, info.frameSize, info.delaySamples) * info.frameSize);
    padded.set(signal);
    const { codes } = await this.network.encode(padded, await this.network.initialState("encoder"));
    return new Codes(codes, info.numCodebooks, {
      numSamples: signal.length,
      sampleRate: info.sampleRate,
      frameSize: info.frameSize,
      bitsPerCode: info.bitsPerCode,
      model: info.name,
      modelHash: info.modelHash,
    }).first(k);
  }

  /** Codes to samples at the model's rate, aligned with what was encoded. @param {Codes} codes */
  async decode(codes) {
    const { info } = this;
    const { about } = codes;
    if (about && about.modelHash !== info.modelHash) {
      throw new ModelError(`codes of model '${about.model}' (${about.modelHash}) cannot be decoded by '${info.name}' (${info.modelHash})`);
    }
    const audio = (await this.decoder().push(codes)).subarray(info.delaySamples);
    if (!about) return audio;
    if (about.numSamples > audio.length) throw new CodesError(`${about.numSamples} samples asked of ${codes.numFrames} frames, which hold ${audio.length}`);
    return audio.slice(0, about.numSamples);
  }

  /** A stream from samples at the model's rate to codes. @param {number | null} [bitrate] bits per second, null for the highest */
  encoder(bitrate = this.defaultBitrate) {
    return new Encoder(this, bitrate);
  }

  /** A stream from codes to samples. */
  decoder() {
    return new Decoder(this);
  }
}

/**
 * Load a model.
 * @param {string | URL | ((name: string) => Promise<Uint8Array>)} model the address of a folder that `spectok export` wrote, or a
 *   function that gives its files by name
 * @param {object} options
 * @param {import("./network.js").Ort} options.ort onnxruntime-web, for instance `import * as ort from "onnxruntime-web/wasm"`
 * @param {(bytes: number) => void} [options.progress] called with the number of bytes that have come since the last call
 */
export async function load(model, { ort, progress }) {
  ort.env.wasm.numThreads = 1; // one thread is enough, and needs no cross-origin isolation
  const read = typeof model === "function" ? model : (/** @type {string} */ name) => download(new URL(name, new URL(model, globalThis.location?.href)), progress);
  return new Codec(await Network.load(ort, read));
}

/** The bytes at an address. @param {URL} url @param {(bytes: number) => void} [progress] */
export async function download(url, progress) {
  let response;
  try {
    response = await fetch(url);
  } catch (error) {
    throw new ModelError(`${url.pathname} cannot be loaded; is the network there?`, { cause: error });
  }
  if (!response.ok || !response.body) throw new ModelError(`${url.pathname} cannot be loaded (status ${response.status})`);
  /** @type {Uint8Array[]} */
  const parts = [];
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    progress?.(value.length);
  }
  return concat(Uint8Array, parts);
}
