// Writing a `.stk`: for the same codes and options the bytes are those of Python's writer.

import { pack } from "./bits.js";
import { Codes, concat } from "./codes.js";
import { CodesError, StreamError } from "./errors.js";
import { Header } from "./header.js";
import { packMetadata } from "./metadata.js";
import { END, HAS_INDEX, HAS_METADATA, INDEX, MAX_FRAMES, METADATA, PLAIN, record, sealed, varint } from "./records.js";

const STRIDE = 16; // packets per entry of the index, at first
const MAX_ENTRIES = 4096;
const TAIL = 3; // bytes at the end of the index that hold its size

/**
 * @typedef {object} Options
 * @property {number} [packetFrames] 1 to 255, by default one second
 * @property {Record<string, string>} [metadata] text by key
 * @property {boolean} [index] so that a reader finds any time in a long recording at once
 */

/** Writes codes to `sink`, which gets a whole record at a time: the header now, packets as they fill up, the end record on `close`. */
export class Writer {
  #sink;
  #packetFrames;
  #slack; // the last packet takes in a rest of up to a fifth, which then costs no packet of its own
  #index;
  /** @type {Int16Array[]} */
  #parts = [];
  #codebooks = 0; // of what is buffered
  #buffered = 0; // frames
  #closed = false;

  /** @param {(record: Uint8Array) => void} sink @param {Header} header @param {Options} [options] */
  constructor(sink, header, { packetFrames = Math.min(Math.max(Math.round(header.frameRate), 1), MAX_FRAMES), metadata, index = false } = {}) {
    if (!(packetFrames >= 1 && packetFrames <= MAX_FRAMES)) throw new CodesError(`packetFrames must be 1 to ${MAX_FRAMES}, not ${packetFrames}`);
    this.#sink = sink;
    this.#packetFrames = packetFrames;
    this.#slack = Math.min(Math.floor(packetFrames / 5), MAX_FRAMES - packetFrames);
    this.#index = index ? new Index() : null;
    this.header = header;
    this.numFrames = 0; // written
    this.numBytes = 0;
    const described = metadata && Object.keys(metadata).length > 0;
    this.#send(header.pack((index ? HAS_INDEX : 0) | (described ? HAS_METADATA : 0)));
    if (described) {
      this.#send(record(METADATA, packMetadata(metadata)));
    }
  }

  /** @param {Codes} codes any number of frames, 1 to `header.numCodebooks` codebooks */
  write(codes) {
    if (this.#closed) throw new StreamError("this .stk writer is closed");
    if (codes.numCodebooks > this.header.numCodebooks) {
      throw new CodesError(`codes must have 1 to ${this.header.numCodebooks} codebooks, not ${codes.numCodebooks}`);
    }
    if (!codes.numFrames) return;
    if (this.#buffered && this.#codebooks !== codes.numCodebooks) this.#drain(1);
    this.#codebooks = codes.numCodebooks;
    this.#parts.push(codes.data);
    this.#buffered += codes.numFrames;
    if (this.#buffered >= this.#packetFrames + this.#slack) this.#drain(this.#packetFrames + this.#slack);
  }

  /** @param {number} numSamples the exact length of the audio at the header's sample rate */
  close(numSamples) {
    if (this.#closed) throw new StreamError("this .stk writer is closed");
    const most = (this.numFrames + this.#buffered) * this.header.frameSize;
    if (!(numSamples >= 0 && numSamples <= most)) throw new CodesError(`numSamples must be 0 to ${most}, what the frames hold; not ${numSamples}`);
    this.#drain(1);
    const index = this.#index?.record(this.numBytes);
    if (index) this.#send(index);
    this.#send(record(END, [...varint(this.numFrames), ...varint(numSamples)]));
    this.#closed = true;
  }

  /** Send packets for as long as at least `least` frames are buffered. @param {number} least */
  #drain(least) {
    if (!this.#buffered) return;
    const codes = new Codes(concat(Int16Array, this.#parts), this.#codebooks);
    let start = 0;
    while (codes.numFrames - start >= least) {
      const left = codes.numFrames - start;
      const size = left >= this.#packetFrames + this.#slack ? this.#packetFrames : left;
      const payload = pack(codes.frames(start, start + size), this.header.bitsPerCode);
      this.#index?.add(this.numFrames, this.numBytes);
      this.#send(sealed([PLAIN + codes.numCodebooks - 1, size, ...varint(this.numFrames), ...payload]));
      this.numFrames += size;
      start += size;
    }
    this.#parts = [codes.frames(start).data];
    this.#buffered = codes.numFrames - start;
  }

  /** @param {Uint8Array} bytes */
  #send(bytes) {
    this.numBytes += bytes.length;
    this.#sink(bytes);
  }
}

/** Where some of the packets start. The stride doubles whenever there are too many entries. */
class Index {
  /** @type {[number, number][]} frame and byte */
  #entries = [];
  #stride = STRIDE;
  #packets = 0;

  /** @param {number} frame @param {number} offset */
  add(frame, offset) {
    if (this.#packets++ % this.#stride) return;
    this.#entries.push([frame, offset]);
    if (this.#entries.length > MAX_ENTRIES) {
      this.#entries = this.#entries.filter((_, i) => i % 2 === 0);
      this.#stride *= 2;
    }
  }

  /** The record that stands at byte `position`; none for a stream so short that it needs none. @param {number} position */
  record(position) {
    if (this.#entries.length < 2) return null;
    const body = [...varint(position), ...varint(this.#entries.length)];
    let [frame, offset] = [0, 0];
    for (const [nextFrame, nextOffset] of this.#entries) {
      body.push(...varint(nextFrame - frame), ...varint(nextOffset - offset));
      [frame, offset] = [nextFrame, nextOffset];
    }
    const size = record(INDEX, new Uint8Array(body.length + TAIL)).length;
    return record(INDEX, [...body, size & 255, (size >> 8) & 255, size >> 16]);
  }
}

/** The file of a whole clip, as `spectok encode` writes it. @param {Codes} codes from `Codec.encode` @param {Options} [options] @returns {Uint8Array} */
export function writeStk(codes, options = { index: true }) {
  const { about } = codes;
  if (!about) throw new CodesError("codes of a stream do not say how long the audio is; use Writer");
  /** @type {Uint8Array[]} */
  const records = [];
  const writer = new Writer((bytes) => records.push(bytes), new Header({ ...about, numCodebooks: codes.numCodebooks }), options);
  writer.write(codes);
  writer.close(about.numSamples);
  return concat(Uint8Array, records);
}
