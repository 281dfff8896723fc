// Plays blocks from the worker: the original and the decoded sound of the same moment, with a short fade from one to the other.

/** @typedef {import("./protocol.js").ToPlayer} ToPlayer */

const FADE = 1 / (0.015 * sampleRate); // per sample
const LIVE_START = 3; // blocks that must wait before live sound begins, against jitter
const LIVE_MOST = 10; // more than that is delay: skip

registerProcessor(
  "player",
  class extends AudioWorkletProcessor {
    /** @type {Extract<ToPlayer, {type: "block"}>[]} */
    #queue = [];
    #at = 0; // in the first block
    #playing = false;
    #live = false;
    #waiting = true;
    #ended = false;
    #mix = 0; // 1 is the original
    #mixTo = 0;
    #volume = 1;
    #volumeTo = 1;
    /** @type {MessagePort | null} */
    #worker = null;

    constructor() {
      super();
      this.port.onmessage = ({ data }) => {
        if (data instanceof MessagePort) {
          this.#worker = data;
          data.onmessage = (event) => this.#take(event.data);
        } else {
          this.#take(data);
        }
      };
    }

    /** @param {ToPlayer} message */
    #take(message) {
      if (message.type === "block") {
        this.#queue.push(message);
        if (this.#live && this.#queue.length > LIVE_MOST) while (this.#queue.length > LIVE_START) this.#drop();
      } else if (message.type === "flush") {
        this.#queue = [];
        this.#at = 0;
        this.#live = message.live;
        this.#waiting = true;
        this.#ended = false;
      } else if (message.type === "end") this.#ended = true;
      else if (message.type === "hear") this.#mixTo = Number(message.original);
      else if (message.type === "volume") this.#volumeTo = message.value;
      else this.#playing = message.playing;
    }

    #drop() {
      const block = this.#queue.shift();
      this.#at = 0;
      if (block) this.#worker?.postMessage({ type: "consumed", seq: block.seq });
    }

    /** @param {Float32Array[][]} inputs @param {Float32Array[][]} outputs */
    process(inputs, [[output]]) {
      for (let i = 0; this.#playing && i < output.length; i++) {
        if (this.#waiting && this.#queue.length < (this.#live ? LIVE_START : 1) && !this.#ended) break;
        const block = this.#queue[0];
        if (!block) {
          this.#waiting = true;
          if (this.#ended) {
            this.#playing = false;
            this.port.postMessage({ type: "ended" });
          }
          break;
        }
        this.#waiting = false;
        if (this.#at === 0) this.port.postMessage({ type: "position", seq: block.seq, index: block.index });
        this.#mix = approach(this.#mix, block.original ? this.#mixTo : 0, FADE);
        this.#volume = approach(this.#volume, this.#volumeTo, FADE);
        const decoded = block.decoded[this.#at];
        const original = block.original ? block.original[this.#at] : decoded;
        output[i] = this.#volume * (this.#mix * original + (1 - this.#mix) * decoded);
        if (++this.#at === block.decoded.length) this.#drop();
      }
      return true;
    }
  },
);

/** @param {number} from @param {number} to @param {number} step */
function approach(from, to, step) {
  return to > from ? Math.min(to, from + step) : Math.max(to, from - step);
}
