// Buffers what the microphone gives and posts it in pieces of 20 ms. Nothing else: the worker resamples and encodes.

registerProcessor(
  "recorder",
  class extends AudioWorkletProcessor {
    #buffer = new Float32Array(Math.round(sampleRate / 50));
    #filled = 0;
    /** @type {MessagePort | null} */
    #sink = null;

    constructor() {
      super();
      this.port.onmessage = ({ data }) => (this.#sink = data);
    }

    /** @param {Float32Array[][]} inputs */
    process([channels]) {
      for (let i = 0; i < (channels[0]?.length ?? 0); i++) {
        let sum = 0;
        for (const channel of channels) sum += channel[i];
        this.#buffer[this.#filled++] = sum / channels.length;
        if (this.#filled === this.#buffer.length) {
          this.#sink?.postMessage(this.#buffer);
          this.#filled = 0;
        }
      }
      return true;
    }
  },
);
