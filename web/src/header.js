// The header of a `.stk`: what a decoder must know before the first packet.

import { CodesError, CorruptedError, FormatError, TruncatedError, VersionError } from "./errors.js";
import { HAS_INDEX, HAS_METADATA, HAS_TABLES, MAGIC, hexByte, intact, readVarint, sealed, varint } from "./records.js";

const VERSION = 1;
const MAX_FIELD = (1 << 21) - 1;

/** Whose codes these are, and their geometry. CodesError on values that the format cannot hold. */
export class Header {
  /** @param {{model: string, modelHash: string, sampleRate: number, frameSize: number, numCodebooks: number, bitsPerCode: number}} values */
  constructor({ model, modelHash, sampleRate, frameSize, numCodebooks, bitsPerCode }) {
    this.model = model; // its name
    this.modelHash = modelHash; // 16 hexadecimal digits
    this.sampleRate = sampleRate; // Hz
    this.frameSize = frameSize; // samples per frame
    this.numCodebooks = numCodebooks; // the most that a packet may use
    this.bitsPerCode = bitsPerCode;
    const size = new TextEncoder().encode(model).length;
    const fits = (/** @type {number} */ value, /** @type {number} */ most) => Number.isInteger(value) && value >= 1 && value <= most;
    const named = size >= 1 && size <= 64 && !/^\.|[/\\:]|[^\P{C}]|[^\P{Z} ]/u.test(model) && /^[0-9a-f]{16}$/.test(modelHash);
    if (!(named && fits(sampleRate, MAX_FIELD) && fits(frameSize, MAX_FIELD) && fits(numCodebooks, 32) && fits(bitsPerCode, 15))) {
      throw new CodesError(`a .stk header cannot hold ${JSON.stringify(this)}`);
    }
  }

  get frameRate() {
    return this.sampleRate / this.frameSize;
  }

  /** @param {number} flags */
  pack(flags) {
    const hash = Array.from({ length: 8 }, (_, i) => parseInt(this.modelHash.slice(2 * i, 2 * i + 2), 16));
    const sizes = [...varint(this.sampleRate), ...varint(this.frameSize), this.bitsPerCode, this.numCodebooks];
    const body = [flags, ...hash, ...sizes, ...new TextEncoder().encode(this.model)];
    return sealed([...MAGIC, VERSION, body.length, ...body]);
  }
}

/** Whether the bytes at `at`, as far as there are any, are those that a stream begins with. @param {Uint8Array} data @param {number} at */
export function magicAt(data, at) {
  return MAGIC.every((byte, i) => at + i >= data.length || data[at + i] === byte);
}

/** The header at `start`, its flags, and where it ends. FormatError (something else), VersionError (newer), TruncatedError, CorruptedError.
 * @param {Uint8Array} data @param {number} [start] */
export function readHeader(data, start = 0) {
  if (!magicAt(data, start)) {
    throw new FormatError(`not a .stk stream: it begins with ${JSON.stringify(String.fromCharCode(...data.subarray(start, start + 4)))}`);
  }
  if (data.length > start + 4 && data[start + 4] > VERSION) {
    throw new VersionError(`format version ${data[start + 4]}; this reader knows version ${VERSION}`);
  }
  const end = start + 6 + (data[start + 5] ?? 0) + 4;
  if (data.length < end) throw new TruncatedError(`the data end at byte ${data.length}, inside the header${start ? ` at byte ${start}` : ""}`);
  if (data[start + 4] === 0 || !intact(data, start, end)) {
    throw new CorruptedError(`the header (byte ${start}) is damaged: its checksum does not match`);
  }
  const body = data.subarray(start + 6, end - 4);
  const flags = body[0];
  if (flags & ~(HAS_TABLES | HAS_INDEX | HAS_METADATA)) throw new VersionError(`the header has flags ${hexByte(flags)} that this reader does not know`);
  try {
    const [sampleRate, afterRate] = readVarint(body, 9);
    const [frameSize, at] = readVarint(body, afterRate);
    const modelHash = [...body.subarray(1, 9)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    const model = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(body.subarray(at + 2));
    const header = new Header({ model, modelHash, sampleRate, frameSize, bitsPerCode: body[at], numCodebooks: body[at + 1] });
    return { header, flags, end };
  } catch (error) {
    throw new CorruptedError(`the header (byte ${start}) has an impossible value: ${/** @type {Error} */ (error).message}`);
  }
}
