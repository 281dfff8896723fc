// Codes to bits and back: frame after frame, in a frame codebook after codebook, every code most significant bit first.

import { Codes } from "./codes.js";
import { CodesError, CorruptedError } from "./errors.js";

/** Bytes that `pack` makes. @param {number} count of codes @param {number} bits of each */
export function packedSize(count, bits) {
  return Math.ceil((count * bits) / 8);
}

/** @param {Codes} codes @param {number} bits */
export function pack(codes, bits) {
  const out = new Uint8Array(packedSize(codes.data.length, bits));
  let held = 0; // bits not yet written, fewer than 8 after each code
  let count = 0;
  let at = 0;
  for (const code of codes.data) {
    if (!(code >= 0 && code < 1 << bits)) throw new CodesError(`codes must be 0 to ${(1 << bits) - 1} (${bits} bits); one is ${code}`);
    held = (held << bits) | code;
    for (count += bits; count >= 8; count -= 8) out[at++] = held >>> (count - 8);
    held &= (1 << count) - 1;
  }
  if (count) out[at] = held << (8 - count);
  return out;
}

/** @param {Uint8Array} data @param {number} numCodebooks @param {number} numFrames @param {number} bits */
export function unpack(data, numCodebooks, numFrames, bits) {
  const codes = new Int16Array(numCodebooks * numFrames);
  let held = 0;
  let count = 0;
  let at = 0;
  for (let i = 0; i < codes.length; i++) {
    for (; count < bits; count += 8) held = (held << 8) | data[at++];
    codes[i] = held >>> (count -= bits);
    held &= (1 << count) - 1;
  }
  if (held || at !== data.length) throw new CorruptedError("the padding bits after the last code are not zero");
  return new Codes(codes, numCodebooks);
}
