// Microphone and loudspeaker: two audio contexts with a worklet each. The loudspeaker's runs at the model's rate, so that one sample is
// one sample; the microphone's runs at its own, as not all browsers resample there, and the worker resamples.

import { resample } from "../src/resample.js";
import { readWav } from "../src/wav.js";

/** @typedef {import("./protocol.js").ToPlayer} ToPlayer */
/** @typedef {import("./protocol.js").FromPlayer} FromPlayer */

export class Player {
  /** @type {AudioWorkletNode | null} */
  #node = null;
  /** @type {AudioContext | null} */
  #context = null;
  /** @type {ToPlayer[]} */
  #early = [];

  /** @param {number} rate @param {MessagePort} worker @param {(message: FromPlayer) => void} receive */
  constructor(rate, worker, receive) {
    this.rate = rate;
    this.worker = worker;
    this.receive = receive;
  }

  /** Call it from a click or a key: browsers allow no sound before. */
  async wake() {
    if (!this.#context) {
      this.#context = new AudioContext({ sampleRate: this.rate, latencyHint: "interactive" });
      await this.#context.audioWorklet.addModule(new URL("player.worklet.js", import.meta.url));
      const node = new AudioWorkletNode(this.#context, "player", { numberOfInputs: 0, outputChannelCount: [1] });
      node.port.onmessage = ({ data }) => this.receive(data);
      node.port.postMessage(this.worker, [this.worker]);
      node.connect(this.#context.destination);
      for (const message of this.#early) node.port.postMessage(message);
      this.#node = node;
    }
    if (this.#context.state !== "running") await this.#context.resume();
  }

  /** @param {ToPlayer} message */
  send(message) {
    if (this.#node) this.#node.port.postMessage(message);
    else this.#early.push(message);
  }
}

export class Microphone {
  /** @param {AudioContext} context @param {MediaStream} stream @param {MessagePort} port */
  constructor(context, stream, port) {
    this.context = context;
    this.stream = stream;
    this.port = port;
  }

  /** Asks for the microphone, without the processing that is made for telephone calls. */
  static async open() {
    if (!navigator.mediaDevices) throw new DOMException("microphones need https or localhost", "NotSupportedError");
    const audio = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    const stream = await navigator.mediaDevices.getUserMedia({ audio });
    const context = new AudioContext();
    const { port1, port2 } = new MessageChannel();
    const microphone = new Microphone(context, stream, port2);
    try {
      await context.audioWorklet.addModule(new URL("recorder.worklet.js", import.meta.url));
      const node = new AudioWorkletNode(context, "recorder", { outputChannelCount: [1] });
      node.port.postMessage(port1, [port1]);
      context.createMediaStreamSource(stream).connect(node).connect(context.destination); // the node is silent; unconnected it would not run
      await context.resume();
    } catch (error) {
      microphone.close(); // else it would stay on
      throw error;
    }
    return microphone;
  }

  close() {
    for (const track of this.stream.getTracks()) track.stop();
    void this.context.close();
  }
}

/** What to tell someone whose microphone does not open. @param {unknown} error */
export function microphoneMessage(error) {
  const name = error instanceof Error ? error.name : "";
  if (name === "NotAllowedError") return "The microphone was refused. Allow it in the address bar and press Record again, or drop a sound file here.";
  if (name === "NotFoundError") return "No microphone was found. Connect one, or drop a sound file here.";
  if (name === "NotReadableError") return "The microphone is in use by another program. Close that, or drop a sound file here.";
  if (name === "NotSupportedError") return "Browsers give the microphone only to pages on https or localhost. Sound files work here all the same.";
  return `The microphone does not open (${error instanceof Error ? error.message : error}). Sound files work all the same.`;
}

/** A sound file's samples at `rate`, mixed to mono. @param {ArrayBuffer} bytes @param {number} rate */
export async function readAudio(bytes, rate) {
  const wav = readWav(new Uint8Array(bytes));
  if (wav) return resample(wav.samples, wav.sampleRate, rate);
  const audio = await new OfflineAudioContext(1, 1, rate).decodeAudioData(bytes);
  const samples = new Float32Array(audio.length);
  for (let channel = 0; channel < audio.numberOfChannels; channel++) {
    const data = audio.getChannelData(channel);
    for (let i = 0; i < samples.length; i++) samples[i] += data[i] / audio.numberOfChannels;
  }
  return samples;
}
