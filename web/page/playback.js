// From a clip to the player: decodes a little ahead of what is heard, so that a change of bitrate or loss is heard at once.

import { Codes, concat } from "../src/codes.js";

/** @typedef {import("./clip.js").Clip} Clip */
/** @typedef {import("../src/codec.js").Codec} Codec */

/**
 * @typedef {object} Run
 * @property {Clip} clip
 * @property {boolean} live
 * @property {number} frame the next to decode
 * @property {number} index the next sample of the clip to play
 * @property {import("../src/streams.js").Decoder} decoder
 * @property {Float32Array} held decoded samples from `index` on
 */

const AHEAD = 8; // blocks of 20 ms on their way to the ear
const PREROLL = 25; // frames that a decoder needs to get into the swing when it starts in the middle

export class Playback {
  codebooks;
  loss = 0; // share of frames
  /** @type {Run | null} */
  #run = null;
  #pumping = false;
  #seq = 0;
  #heard = 0; // seq up to which the player is done
  /** @type {import("./protocol.js").Block[]} */
  #decoded = []; // frames whose block waits for the next frame's first half

  /** @param {Codec} codec @param {MessagePort} player @param {(block: import("./protocol.js").Block) => void} show
   * @param {(error: unknown) => void} fail */
  constructor(codec, player, show, fail) {
    this.codec = codec;
    this.codebooks = codec.info.numCodebooks;
    this.player = player;
    this.show = show;
    this.fail = fail;
    player.onmessage = ({ data }) => {
      this.#heard = Math.max(this.#heard, data.seq);
      void this.pump();
    };
  }

  /** @param {Clip} clip @param {number} from sample @param {boolean} live the clip is being recorded */
  start(clip, from, live) {
    const { frameSize } = this.codec.info;
    const first = Math.max(0, Math.min(Math.floor(from / frameSize), Math.ceil(clip.numSamples / frameSize) - 1));
    this.stop(live);
    const frame = Math.max(0, first - PREROLL);
    this.#run = { clip, live, frame, index: first * frameSize, decoder: this.codec.decoder(), held: new Float32Array(0) };
    void this.pump();
  }

  stop(live = false) {
    this.#run = null;
    this.#decoded = [];
    this.#heard = this.#seq;
    this.player.postMessage({ type: "flush", live });
  }

  /** Decode as far as there are codes and the player has room. */
  async pump() {
    if (this.#pumping) return;
    this.#pumping = true;
    try {
      for (let run = this.#run; run && this.#seq - this.#heard < AHEAD && run.frame < run.clip.numFrames; run = this.#run) {
        await this.#step(run);
        if (run === this.#run && run.clip.complete && run.index >= run.clip.numSamples) {
          this.player.postMessage({ type: "end" });
          this.#run = null;
        }
      }
    } catch (error) {
      this.stop();
      this.player.postMessage({ type: "end" });
      this.fail(error);
    } finally {
      this.#pumping = false;
    }
  }

  /** One frame; what it completes goes to the player and to the page. @param {Run} run */
  async #step(run) {
    const { frameSize, delaySamples, numCodebooks } = this.codec.info;
    const { clip, decoder } = run;
    const number = run.frame++;
    const start = number * frameSize; // of the clip's samples that this frame is for
    const all = clip.frame(number, numCodebooks);
    const used = Math.min(all.length, this.codebooks);
    const lost = !used || (start >= run.index && Math.random() < this.loss);
    const audio = lost ? await decoder.conceal(1) : await decoder.push(new Codes(all.slice(0, used), used));
    if (run !== this.#run) return;
    // Sample i of this frame's output belongs to sample start - delaySamples + i of the clip.
    const skip = Math.min(audio.length, Math.max(0, run.index - (start - delaySamples)));
    run.held = concat(Float32Array, [run.held, run.held.length ? audio : audio.subarray(skip)]);
    if (start >= run.index) {
      this.#decoded.push({ type: "block", seq: 0, index: start, original: null, decoded: audio, codes: all, used: lost ? 0 : used, lost });
    }
    const last = clip.complete && run.frame >= clip.numFrames && run.index < clip.numSamples;
    // The last frame may complete two blocks: the decoder's delay can leave a few samples behind the last whole one.
    const rest = last ? Math.ceil((clip.numSamples - run.index) / frameSize) * frameSize : 0;
    if (run.held.length < rest) run.held = concat(Float32Array, [run.held, new Float32Array(rest - run.held.length)]);
    while (run.held.length >= frameSize && this.#decoded.length) {
      const block = /** @type {import("./protocol.js").Block} */ (this.#decoded.shift());
      block.seq = ++this.#seq;
      block.index = run.index;
      block.original = clip.samples(run.index, frameSize);
      block.decoded = run.held.slice(0, frameSize);
      run.held = run.held.slice(frameSize);
      run.index += frameSize;
      this.player.postMessage(block);
      this.show(block);
    }
  }
}
