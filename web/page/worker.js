// Everything that computes: the model, the clip, the stream to the player. One thread; the page only draws.

import { download, load } from "../src/codec.js";
import { ModelError, SpecTokenizerError } from "../src/errors.js";
import { Resampler } from "../src/resample.js";
import { readStk } from "../src/stk.js";
import { Clip } from "./clip.js";
import { Playback } from "./playback.js";
import { Stopwatch } from "./stopwatch.js";

/** @typedef {import("./protocol.js").ToWorker} ToWorker */
/** @typedef {import("./protocol.js").FromWorker} FromWorker */
/** @typedef {import("../src/codec.js").Codec} Codec */

const CHUNK = 10; // frames per call while a file is encoded: short, so that playing is never kept waiting

const MAX_SILENCE = 600; // seconds in place of lost packets, in all: a forged counter must not fill the memory

/** @type {Codec} */
let codec;
/** @type {Playback} */
let playback;
/** @type {Clip | null} */
let clip = null;
/** @type {{push: (samples: Float32Array, last?: boolean) => void} | null} */
let recording = null;
const watch = new Stopwatch((cost) => send({ type: "cost", ...cost }));

/** @param {FromWorker} message @param {Transferable[]} [transfer] */
function send(message, transfer = []) {
  postMessage(message, { transfer });
}

/** @param {Clip} about */
function announce(about) {
  if (about !== clip) return;
  const { numSamples, hasOriginal, complete, codebooks, note, part, parts } = about;
  send({ type: "clip", numSamples, seconds: numSamples / codec.info.sampleRate, hasOriginal, complete, codebooks, note, part, parts });
}

/** A new clip, or none yet, in place of the old one, whose encoding then stops. @template {Clip | null} C @param {C} next @returns {C} */
function begin(next) {
  playback.stop();
  recording = null;
  clip = next;
  return next;
}

/** @type {{[T in ToWorker["type"]]: (message: Extract<ToWorker, {type: T}>) => void | Promise<void>}} */
const actions = {
  async start({ player }) {
    const progress = (/** @type {number} */ bytes) => send({ type: "progress", bytes });
    const folder = new URL("../", import.meta.url);
    const [ort, wasm] = await Promise.all([
      import(new URL("ort/ort.mjs", folder).href),
      download(new URL("ort/ort.wasm.gz", folder), progress),
    ]);
    ort.env.wasm.wasmBinary = await unzipped(wasm);
    codec = await load(new URL("model/", folder), { ort, progress });
    playback = new Playback(codec, player, (block) => send(block), tell);
    await warmUp();
    codec.network.onRun = (side, frames, ms) => watch.add(side, frames, ms);
    send({ type: "ready", info: codec.info });
    await breathe();
    await codec.network.session("encoder_chunk"); // for files; a microphone needs it not
  },

  record({ rate, microphone }) {
    const next = begin(new Clip(codec.info, true));
    const resampler = new Resampler(rate, codec.info.sampleRate);
    const encoder = codec.encoder(null);
    const push = (/** @type {Float32Array} */ samples, last = false) => {
      const audio = resampler.push(samples, last);
      next.addSamples(audio);
      void encoder.push(audio).then(async (codes) => {
        next.addCodes(codes);
        if (last) {
          next.addCodes(await encoder.flush());
          next.complete = true;
        }
        if (last || next.numFrames % 10 === 0) announce(next);
        playback.pump();
      }, tell);
    };
    recording = { push };
    playback.start(next, 0, true);
    microphone.onmessage = ({ data }) => recording?.push === push && push(data);
  },

  stop() {
    recording?.push(new Float32Array(0), true);
    recording = null;
  },

  async encode({ samples }) {
    const next = begin(new Clip(codec.info, true));
    next.addSamples(samples);
    const encoder = codec.encoder(null);
    const size = CHUNK * codec.info.frameSize;
    for (let start = 0; start < samples.length && next === clip; start += size) {
      next.addCodes(await encoder.push(samples.slice(start, start + size)));
      announce(next);
      playback.pump();
      await breathe();
    }
    next.addCodes(await encoder.flush());
    next.complete = true;
    announce(next);
    playback.pump();
  },

  open({ bytes, salvage, part }) {
    begin(null);
    const recordings = readStk(bytes, { salvage });
    const file = recordings[part];
    const { info } = codec;
    const { model, modelHash, numCodebooks } = file.header;
    if (modelHash !== info.modelHash) {
      throw new ModelError(`the file was made by model '${model}' (${modelHash}), this page has '${info.name}' (${info.modelHash})`);
    }
    const same = /** @type {const} */ (["sampleRate", "frameSize", "bitsPerCode"]).every((key) => file.header[key] === info[key]);
    if (!same || numCodebooks > info.numCodebooks) throw new ModelError(`the file's header is not one of model '${info.name}', whose name and hash it has`);
    const next = begin(new Clip(info, false, numCodebooks));
    let room = Math.round(MAX_SILENCE * info.frameRate);
    let missing = 0; // lost frames that got no silence
    const lose = (/** @type {number} */ frames) => {
      const silent = Math.min(frames, room);
      room -= silent;
      missing += frames - silent;
      next.addLost(silent);
    };
    for (const { firstFrame, codes } of file.packets) {
      lose(firstFrame - next.numFrames - missing);
      next.addCodes(codes);
    }
    lose(file.numFrames - next.numFrames - missing);
    next.numSamples = Math.max(0, (file.numSamples ?? file.numFrames * info.frameSize) - missing * info.frameSize);
    [next.metadata, next.part, next.parts, next.complete] = [file.metadata, part, recordings.length, true];
    next.note = file.problems.map((problem) => problem.message).join("; ");
    announce(next);
  },

  play({ from }) {
    if (clip) playback.start(clip, from, false);
  },

  pause() {
    playback.stop();
  },

  settings({ codebooks, loss }) {
    playback.codebooks = codebooks;
    playback.loss = loss;
  },

  save() {
    if (!clip) return;
    const bytes = clip.stk(playback.codebooks);
    send({ type: "file", bytes }, [bytes.buffer]);
  },
};

self.onmessage = async ({ data }) => {
  try {
    await actions[/** @type {ToWorker["type"]} */ (data.type)](data);
  } catch (error) {
    tell(error, data.type === "open" && !data.salvage);
  }
};

/** @param {unknown} error @param {boolean} [salvage] whether that may help */
function tell(error, salvage = false) {
  const { name, message } = /** @type {Error} */ (error);
  if (!(error instanceof SpecTokenizerError)) console.error(error);
  send({ type: "error", kind: name, message, salvageable: salvage && (name === "CorruptedError" || name === "TruncatedError") });
}

/** The engine compiles in two stages; a second of audio ahead of the first real one brings it to the fast one. */
async function warmUp() {
  const [encoder, decoder] = [codec.encoder(null), codec.decoder()];
  const frame = Float32Array.from({ length: codec.info.frameSize }, () => 0.1 * (Math.random() - 0.5));
  for (let i = 0; i < 8; i++) await decoder.push(await encoder.push(frame));
}

/** @param {Uint8Array} data gzipped, or not: some servers unpack on the way */
async function unzipped(data) {
  if (data[0] !== 0x1f || data[1] !== 0x8b) return data;
  const stream = new Blob([/** @type {Uint8Array<ArrayBuffer>} */ (data)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Let messages in. */
function breathe() {
  return new Promise((resolve) => setTimeout(resolve));
}
