// The exported graphs of one model, and their states. Names and shapes of the states come from the graphs themselves.
//
// A state is an object of tensors that nobody changes in place: keep one, and a stream can go on from there as often as you like.
// Step graphs (one frame) and chunk graphs (any number) do the same arithmetic, so codes do not depend on how audio was cut.

import { concat } from "./codes.js";
import { ModelError } from "./errors.js";

/** @typedef {typeof import("onnxruntime-web")} Ort */
/** @typedef {Record<string, import("onnxruntime-web").Tensor>} State */
/** @typedef {"encoder" | "decoder"} Side */

/**
 * The part of config.json that is needed here.
 * @typedef {object} Config
 * @property {string} name
 * @property {number} sample_rate
 * @property {number} hop_length
 * @property {number} window_length
 * @property {[number, number][]} strides
 * @property {number} num_codebooks
 * @property {number} codebook_size
 */

const CONFIG = "config.json";
const WEIGHTS = "weights.bin";
const GRAPHS = ["encoder_step", "encoder_chunk", "decoder_step", "decoder_chunk"];
export const MODEL_FILES = [CONFIG, WEIGHTS, ...GRAPHS.map((name) => `${name}.onnx`)];
const CHUNK_FRAMES = 50; // frames per call for long audio: more is not faster

export class Network {
  /** @type {Map<string, Promise<import("onnxruntime-web").InferenceSession>>} */
  #sessions = new Map();
  /** @type {Promise<unknown>} */
  #queue = Promise.resolve(); // onnxruntime-web runs one thing at a time

  /** Use `Network.load`. @param {Ort} ort @param {Map<string, Uint8Array>} files @param {Config} config @param {string} contentHash */
  constructor(ort, files, config, contentHash) {
    this.ort = ort;
    /** Called with what each run took, for those who want to know. @type {((side: Side, frames: number, ms: number) => void) | null} */
    this.onRun = null;
    this.files = files;
    this.config = config;
    this.contentHash = contentHash;
    this.frameSize = config.hop_length * config.strides.reduce((product, [time]) => product * time, 1);
  }

  /**
   * @param {Ort} ort
   * @param {(name: string) => Promise<Uint8Array>} read gives one of MODEL_FILES
   */
  static async load(ort, read) {
    const files = new Map(await Promise.all(MODEL_FILES.map(async (name) => /** @type {const} */ ([name, await read(name)]))));
    const text = new TextDecoder().decode(files.get(CONFIG));
    let config;
    try {
      config = /** @type {Config} */ (JSON.parse(text).codec);
      if (!(config.num_codebooks >= 1 && config.strides.length >= 1)) throw new TypeError("values are missing");
    } catch (error) {
      throw new ModelError(`${CONFIG} is not a model configuration (${/** @type {Error} */ (error).message})`);
    }
    return new Network(ort, files, config, await contentHash(files, text));
  }

  /** The graph, loaded at first use. @param {string} name */
  session(name) {
    let session = this.#sessions.get(name);
    if (!session) {
      const options = { executionProviders: ["wasm"], externalData: [{ path: WEIGHTS, data: /** @type {Uint8Array} */ (this.files.get(WEIGHTS)) }] };
      session = this.#enqueue(() =>
        this.ort.InferenceSession.create(/** @type {Uint8Array} */ (this.files.get(`${name}.onnx`)), options).catch((error) => {
          throw new ModelError(`${name}.onnx cannot be loaded (${error.message})`);
        }),
      );
      this.#sessions.set(name, session);
    }
    return session;
  }

  /** Zeros for every input of a side but the first. @param {Side} side @returns {Promise<State>} */
  async initialState(side) {
    const session = await this.session(`${side}_step`);
    /** @type {State} */
    const state = {};
    for (const input of session.inputMetadata.slice(1)) {
      if (!input.isTensor) continue;
      const shape = [1, ...input.shape.slice(1).map(Number)];
      state[input.name.replace(/_in$/, "")] = new this.ort.Tensor("float32", new Float32Array(shape.reduce((a, b) => a * b)), shape);
    }
    return state;
  }

  /** Audio of t whole frames to codes [t, K] and the state after it. @param {Float32Array} audio @param {State} state */
  async encode(audio, state) {
    const k = this.config.num_codebooks;
    const total = audio.length / this.frameSize;
    const codes = new Int16Array(total * k);
    for (let start = 0; start < total; start += CHUNK_FRAMES) {
      const frames = Math.min(CHUNK_FRAMES, total - start);
      const part = audio.slice(start * this.frameSize, (start + frames) * this.frameSize);
      const [first, after] = await this.#run("encoder", frames, new this.ort.Tensor("float32", part, [1, part.length]), state);
      const rows = /** @type {BigInt64Array} */ (first.data); // [1, K, t]
      for (let t = 0; t < frames; t++) for (let i = 0; i < k; i++) codes[(start + t) * k + i] = Number(rows[i * frames + t]);
      state = after;
    }
    return { codes, state };
  }

  /**
   * Codes [t, K] of all codebooks, absent ones equal to codebook_size, to audio, and the state after it.
   * @param {Int16Array | Int32Array} codes @param {State} state
   */
  async decode(codes, state) {
    const k = this.config.num_codebooks;
    const total = codes.length / k;
    const audio = new Float32Array(total * this.frameSize);
    for (let start = 0; start < total; start += CHUNK_FRAMES) {
      const frames = Math.min(CHUNK_FRAMES, total - start);
      const rows = new BigInt64Array(k * frames);
      for (let t = 0; t < frames; t++) for (let i = 0; i < k; i++) rows[i * frames + t] = BigInt(codes[(start + t) * k + i]);
      const [first, after] = await this.#run("decoder", frames, new this.ort.Tensor("int64", rows, [1, k, frames]), state);
      audio.set(/** @type {Float32Array} */ (first.data), start * this.frameSize);
      state = after;
    }
    return { audio, state };
  }

  /**
   * @param {Side} side @param {number} frames @param {import("onnxruntime-web").Tensor} x @param {State} state
   * @returns {Promise<[import("onnxruntime-web").Tensor, State]>}
   */
  async #run(side, frames, x, state) {
    const session = await this.session(`${side}_${frames === 1 ? "step" : "chunk"}`);
    const feeds = { [session.inputNames[0]]: x };
    for (const [name, value] of Object.entries(state)) feeds[`${name}_in`] = value;
    const results = await this.#enqueue(async () => {
      const start = performance.now();
      const done = await session.run(feeds);
      this.onRun?.(side, frames, performance.now() - start);
      return done;
    });
    const [first, ...rest] = session.outputNames;
    /** @type {State} */
    const after = {};
    for (const name of rest) after[name.replace(/_out$/, "")] = results[name];
    return [results[first], after];
  }

  /** @template T @param {() => Promise<T>} task @returns {Promise<T>} */
  #enqueue(task) {
    const done = this.#queue.then(task);
    this.#queue = done.catch(() => {});
    return done;
  }
}

/** Python's `Network.content_hash`: of the geometry, the weights and the graphs. @param {Map<string, Uint8Array>} files @param {string} text */
async function contentHash(files, text) {
  if (!globalThis.crypto?.subtle) throw new ModelError("the model cannot be checked: use https or localhost, browsers hash nothing elsewhere");
  const geometry = new TextEncoder().encode(canonical(text));
  const parts = [geometry, ...[WEIGHTS, ...GRAPHS.map((name) => `${name}.onnx`)].map((name) => /** @type {Uint8Array} */ (files.get(name)))];
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", /** @type {Uint8Array<ArrayBuffer>} */ (concat(Uint8Array, parts))));
  return [...digest.subarray(0, 8)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * The "codec" object of config.json as Python's json.dumps(…, sort_keys=True) writes it. Numbers stay as they are spelled in the
 * file, where 2.0 is not 2.
 * @param {string} text
 */
function canonical(text) {
  /** @type {string[]} */
  const numbers = [];
  const marked = text.replace(/"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*/g, (token) => (token[0] === '"' ? token : `"#${numbers.push(token) - 1}"`));
  /** @param {unknown} value @returns {string} */
  const write = (value) => {
    if (typeof value === "string" && value[0] === "#") return numbers[Number(value.slice(1))];
    if (Array.isArray(value)) return `[${value.map(write).join(", ")}]`;
    if (value && typeof value === "object") {
      const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
      return `{${entries.map(([key, entry]) => `${JSON.stringify(key)}: ${write(entry)}`).join(", ")}}`;
    }
    return JSON.stringify(value).replace(/[\u007f-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
  };
  return write(JSON.parse(marked).codec);
}
