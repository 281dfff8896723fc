// What the records of a `.stk` have in common: type, size, body, checksum. ../../docs/format.md has every bit.

import { packedSize } from "./bits.js";
import { crc32c } from "./crc32c.js";
import { CorruptedError } from "./errors.js";

export const MAGIC = [0x89, 0x53, 0x54, 0x4b];
export const MAX_FRAMES = 255; // per packet
export const MAX_BODY = 1 << 16;

export const END = 0x01;
export const TABLES = 0x02; // of the entropy coder: their hash
export const PLAIN = 0x20; // packets, one type for each number of codebooks
export const CODED = 0x40; // the same, entropy-coded
export const OPTIONAL = 0x80; // in the type of records that a reader may skip
export const METADATA = 0x80;
export const INDEX = 0x81;

export const HAS_TABLES = 1; // flags of the header
export const HAS_INDEX = 2;
export const HAS_METADATA = 4;

/** @param {number} kind */
export const isPacket = (kind) => kind >= PLAIN && kind < CODED + 32;

/**
 * What stands before a record's body.
 * @typedef {object} Head
 * @property {number} kind
 * @property {number} frames in a packet
 * @property {number} first frame, of a packet
 * @property {number} body where it starts
 * @property {number} next where the next record starts
 */

/** The record that starts at `start`. CorruptedError for an impossible one, RangeError where the data end before it does.
 * @param {Uint8Array} data @param {number} start @param {{numCodebooks: number, bitsPerCode: number}} header @returns {Head} */
export function readHead(data, start, header) {
  const kind = byteAt(data, start);
  let [frames, first, at, length] = [0, 0, start + 1, -1];
  if (isPacket(kind)) {
    frames = byteAt(data, at);
    [first, at] = readVarint(data, at + 1);
    const codebooks = (kind & 31) + 1;
    if (codebooks > header.numCodebooks || !frames) throw new CorruptedError(`impossible packet of ${frames} frames of ${codebooks} codes`);
    if (kind < CODED) length = packedSize(codebooks * frames, header.bitsPerCode);
  }
  if (length < 0) {
    [length, at] = readVarint(data, at);
    if (length > MAX_BODY) throw new CorruptedError(`impossible length of ${length} bytes in a record of type ${hexByte(kind)}`);
  }
  if (at + length + 4 > data.length) throw new RangeError("the data end");
  return { kind, frames, first, body: at, next: at + length + 4 };
}

/** Seven bits per byte, least significant first; the top bit of a byte says that another follows. @param {number} value */
export function varint(value) {
  const out = [];
  for (; value > 0x7f; value = Math.floor(value / 128)) out.push((value & 0x7f) | 0x80);
  return [...out, value];
}

/** The value at `at`, and the index behind it. @param {Uint8Array} data @param {number} at @returns {[number, number]} */
export function readVarint(data, at) {
  let value = 0;
  for (let i = 0; i < 7; i++) {
    const piece = byteAt(data, at + i);
    value += (piece & 0x7f) * 2 ** (7 * i);
    if (piece < 0x80) {
      if (piece === 0 && i > 0) break;
      return [value, at + i + 1];
    }
  }
  throw new CorruptedError("a number is longer than it may be");
}

/** @param {Uint8Array} data @param {number} at */
function byteAt(data, at) {
  if (at >= data.length) throw new RangeError("the data end");
  return data[at];
}

/** Any record but a packet. @param {number} kind @param {ArrayLike<number>} body */
export function record(kind, body) {
  return sealed([kind, ...varint(body.length), ...Array.from(body)]);
}

/** The bytes with their checksum. @param {number[]} bytes */
export function sealed(bytes) {
  const out = new Uint8Array(bytes.length + 4);
  out.set(bytes);
  new DataView(out.buffer).setUint32(bytes.length, crc32c(out.subarray(0, bytes.length)), true);
  return out;
}

/** @param {Uint8Array} data @param {number} start @param {number} stop behind the checksum */
export function intact(data, start, stop) {
  const view = new DataView(data.buffer, data.byteOffset + stop - 4, 4);
  return view.getUint32(0, true) === crc32c(data.subarray(start, stop - 4));
}

/** @param {number} byte */
export function hexByte(byte) {
  return `0x${byte.toString(16).padStart(2, "0")}`;
}
