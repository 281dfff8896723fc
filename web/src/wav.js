// WAV files as Python reads them: integers divided by 2^(bits − 1). Browsers scale positive samples by another hair's breadth.

import { AudioError } from "./errors.js";

/** Mono samples and their rate, or null when it is no WAV that is plain PCM. @param {Uint8Array} data */
export function readWav(data) {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const name = (/** @type {number} */ at) => String.fromCharCode(...data.subarray(at, at + 4));
  if (data.length < 12 || name(0) !== "RIFF" || name(8) !== "WAVE") return null;
  let [format, channels, rate, bits] = [0, 0, 0, 0];
  for (let at = 12; at + 8 <= data.length; ) {
    const [kind, start] = [name(at), at + 8];
    const size = Math.min(view.getUint32(at + 4, true), data.length - start); // a pipe's WAV says that it is endless
    if (kind === "fmt " && size >= 16) {
      format = view.getUint16(start, true);
      if (format === 0xfffe && size >= 26) format = view.getUint16(start + 24, true);
      [channels, rate, bits] = [view.getUint16(start + 2, true), view.getUint32(start + 4, true), view.getUint16(start + 14, true)];
    } else if (kind === "data") {
      const sample = reader(view, format, bits);
      if (!sample || !channels || !rate) return null;
      const bytes = bits / 8;
      const out = new Float32Array(Math.floor(size / (bytes * channels)));
      for (let i = 0; i < out.length; i++) {
        let sum = 0;
        for (let channel = 0; channel < channels; channel++) sum += sample(start + (i * channels + channel) * bytes);
        out[i] = sum / channels;
      }
      return { samples: out, sampleRate: rate };
    }
    at = start + size + (size % 2);
  }
  throw new AudioError("the WAV file holds no samples");
}

/** @param {DataView} view @param {number} format @param {number} bits @returns {((at: number) => number) | null} */
function reader(view, format, bits) {
  if (format === 3 && bits === 32) return (at) => view.getFloat32(at, true);
  if (format === 3 && bits === 64) return (at) => view.getFloat64(at, true);
  if (format !== 1) return null;
  if (bits === 8) return (at) => (view.getUint8(at) - 128) / 128;
  if (bits === 16) return (at) => view.getInt16(at, true) / 2 ** 15;
  if (bits === 24) return (at) => (view.getInt8(at + 2) * 65536 + view.getUint16(at, true)) / 2 ** 23;
  if (bits === 32) return (at) => view.getInt32(at, true) / 2 ** 31;
  return null;
}
