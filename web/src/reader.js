// Reading `.stk` files that are in memory, whole or damaged. Python's reader, of which this is the mirror, also follows pipes.

import { unpack } from "./bits.js";
import { CorruptedError, FormatError, ModelError, TruncatedError, VersionError } from "./errors.js";
import { Header, magicAt, readHeader } from "./header.js";
import { unpackMetadata } from "./metadata.js";
import { CODED, END, HAS_METADATA, HAS_TABLES, INDEX, MAGIC, METADATA, OPTIONAL, TABLES, hexByte, intact, isPacket, readHead, readVarint } from "./records.js";

const MAX_WORK = 1e9; // bytes that are checksummed in vain, in all: a file made to be slow must not take for ever

/** @typedef {{firstFrame: number, codes: import("./codes.js").Codes}} Packet */
/** @typedef {import("./records.js").Head} Head */

/** One recording. `numFrames` counts lost ones, too; what is missing between two packets is lost. A damaged file may count as many as it likes:
 * whoever puts silence in their place sets a limit. */
export class Recording {
  /** @param {Header} header */
  constructor(header) {
    this.header = header;
    /** @type {Packet[]} */
    this.packets = [];
    /** @type {Record<string, string>} */
    this.metadata = {};
    this.numFrames = 0;
    /** Of the audio; null where the end record is lost. @type {number | null} */
    this.numSamples = null;
    /** What salvaging went around. @type {FormatError[]} */
    this.problems = [];
  }
}

/**
 * All recordings of a file, which may hold several in a row. FormatError when it is no `.stk`, VersionError when it needs a newer
 * reader, TruncatedError when it ends too early, CorruptedError when it is damaged, ModelError for entropy-coded packets, whose tables
 * are not here; with `salvage` only an unusable first header and those are errors.
 * @param {Uint8Array} data @param {{salvage?: boolean}} [options] @returns {Recording[]}
 */
export function readStk(data, { salvage = false } = {}) {
  /** @type {Recording[]} */
  const recordings = [];
  for (let reader = /** @type {Reader | null} */ (new Reader(data, 0, salvage, null)); reader; reader = reader.next()) {
    reader.read();
    recordings.push(reader.recording);
  }
  return recordings;
}

class Reader {
  #data;
  #salvage;
  #at;
  #start; // of the current record
  #packets = 0; // intact ones so far
  #flags;
  #done = false;
  #work;

  /** @param {Uint8Array} data @param {number} start @param {boolean} salvage @param {Header | null} fallback in place of a damaged header
   * @param {number} work bytes that were checksummed in vain before */
  constructor(data, start, salvage, fallback, work = 0) {
    this.#data = data;
    this.#work = work;
    this.#salvage = salvage;
    this.#at = this.#start = start;
    try {
      const { header, flags, end } = readHeader(data, start);
      this.recording = new Recording(header);
      this.#flags = flags;
      this.#at = end;
      this.#readFront();
    } catch (error) {
      if (!(error instanceof FormatError && salvage && fallback)) throw error;
      this.recording = new Recording(fallback);
      this.#flags = HAS_TABLES;
      this.#skipDamage(error);
    }
  }

  read() {
    const { recording } = this;
    while (!this.#done) {
      this.#start = this.#at;
      let head;
      try {
        head = this.#record();
      } catch (error) {
        this.#skipDamage(error);
        continue;
      }
      const body = this.#data.subarray(head.body, head.next - 4);
      this.#at = head.next;
      if (isPacket(head.kind)) this.#packet(head, body);
      else if (head.kind === END) this.#end(body);
      else if (head.kind === TABLES) this.#fail(new CorruptedError(`${this.#place()}: the hash of entropy tables belongs right behind a header that announces it`));
      else if (head.kind !== INDEX && !(head.kind & OPTIONAL)) {
        this.#fail(new VersionError(`${this.#place()}: record type ${hexByte(head.kind)} is unknown here; it needs a newer reader`));
      }
    }
    return recording;
  }

  /** The reader of the recording behind this one, or null. A salvaging reader finds the next intact header, or the first packet behind
   * a damaged one. @returns {Reader | null} */
  next() {
    const data = this.#data;
    let newer = false; // behind the header of a newer version nothing may be interpreted but another header
    for (; this.#at < data.length && this.#work < MAX_WORK; this.#at++) {
      if (!this.#salvage || magicHere(data, this.#at)) {
        try {
          readHeader(data, this.#at);
          return new Reader(data, this.#at, this.#salvage, this.recording.header, this.#work);
        } catch (error) {
          if (!(error instanceof FormatError)) throw error;
          if (!newer) this.#fail(error);
          newer ||= error instanceof VersionError;
        }
      } else if (isPacket(data[this.#at]) && !newer && this.#startsARecording()) {
        return new Reader(data, this.#at, this.#salvage, this.recording.header, this.#work);
      }
    }
    return null;
  }

  /** The records that the flags announce, right behind the header. */
  #readFront() {
    const announced = /** @type {const} */ ([[HAS_TABLES, TABLES], [HAS_METADATA, METADATA]]);
    for (const [flag, kind] of announced) {
      if (!(this.#flags & flag)) continue;
      this.#start = this.#at;
      let head;
      try {
        head = this.#record();
      } catch (error) {
        return this.#skipDamage(error);
      }
      const body = this.#data.subarray(head.body, head.next - 4);
      try {
        if (head.kind === kind) {
          this.#at = head.next;
          if (kind === METADATA) this.recording.metadata = unpackMetadata(body);
          else if (body.length !== 8) throw new CorruptedError(`the hash of the entropy tables has 8 bytes, not ${body.length}`);
        } else if (kind === TABLES) {
          throw new CorruptedError("the hash of the entropy tables, which the header announces, is not there");
        }
      } catch (error) {
        this.#fail(new CorruptedError(`${this.#place()}: ${/** @type {Error} */ (error).message}`));
      }
    }
  }

  /** The record at the current position, its checksum right. @returns {Head} */
  #record() {
    const [data, at] = [this.#data, this.#at];
    if (magicHere(data, at)) {
      throw new TruncatedError(`${this.#place()}: a new stream begins before the end record of this one`);
    }
    let head;
    try {
      head = readHead(data, at, this.recording.header);
    } catch (error) {
      if (error instanceof RangeError) {
        const where = at < data.length ? `inside the record at byte ${this.#start}` : "without an end record";
        throw new TruncatedError(`the data end at byte ${data.length}, ${where}; ${this.#packets} complete packets before`);
      }
      throw new CorruptedError(`${this.#place()}: ${/** @type {Error} */ (error).message}`);
    }
    if (!intact(data, at, head.next)) {
      this.#work += head.next - at;
      throw new CorruptedError(`${this.#place()}: the checksum does not match`);
    }
    return head;
  }

  /** @param {Head} head @param {Uint8Array} body */
  #packet(head, body) {
    const { recording } = this;
    const { header } = recording;
    if (head.first !== recording.numFrames) {
      this.#fail(new CorruptedError(`${this.#place()}: a packet starts with frame ${head.first}, expected was frame ${recording.numFrames}`));
      if (head.first < recording.numFrames) return;
    }
    if (head.kind >= CODED) {
      if (this.#flags & HAS_TABLES) throw new ModelError("the file is entropy-coded, and the tables are not here; encode it again without entropy coding");
      this.#fail(new CorruptedError(`${this.#place()}: an entropy-coded packet, which the header does not announce`));
      return;
    }
    try {
      recording.packets.push({ firstFrame: head.first, codes: unpack(body, (head.kind & 31) + 1, head.frames, header.bitsPerCode) });
      recording.numFrames = head.first + head.frames;
      this.#packets++;
    } catch (error) {
      this.#fail(new CorruptedError(`${this.#place()}: ${/** @type {Error} */ (error).message}`));
    }
  }

  /** @param {Uint8Array} body */
  #end(body) {
    const { recording } = this;
    this.#done = true;
    const counted = readEnd(body);
    if (!counted || counted.frames < recording.numFrames || counted.samples > counted.frames * recording.header.frameSize) {
      this.#fail(new CorruptedError(`${this.#place()}: the end record has impossible values`));
    } else {
      if (counted.frames > recording.numFrames) {
        this.#fail(new CorruptedError(`${this.#place()}: the end record counts ${counted.frames} frames, seen were ${recording.numFrames}`));
      }
      recording.numFrames = counted.frames;
      recording.numSamples = counted.samples;
    }
    if (!magicAt(this.#data, this.#at)) this.#fail(new CorruptedError(`more data after the end record, from byte ${this.#at}`));
  }

  #startsARecording() {
    try {
      return this.#record().first === 0;
    } catch {
      return false;
    }
  }

  /** Go to the next intact packet, end record or header, which ends this recording. @param {unknown} error */
  #skipDamage(error) {
    if (!(this.#salvage && error instanceof FormatError)) throw error;
    const data = this.#data;
    for (; this.#at < data.length && this.#work < MAX_WORK; this.#at++) {
      try {
        if (data[this.#at] === MAGIC[0]) {
          readHeader(data, this.#at);
          break;
        }
        if (isPacket(data[this.#at]) || data[this.#at] === END) {
          this.#record();
          this.#fail(new CorruptedError(`${error.message}; ${this.#at - this.#start} bytes skipped`));
          return;
        }
      } catch {
        // not here
      }
    }
    this.#done = true;
    this.#fail(error);
  }

  /** @param {FormatError} error */
  #fail(error) {
    if (!this.#salvage) throw error;
    this.recording.problems.push(error);
  }

  #place() {
    return `byte ${this.#start}, after ${this.#packets} packets`;
  }
}

/** Whether a stream begins at `at`. @param {Uint8Array} data @param {number} at */
function magicHere(data, at) {
  return at + MAGIC.length <= data.length && magicAt(data, at);
}

/** @param {Uint8Array} body */
function readEnd(body) {
  try {
    const [frames, at] = readVarint(body, 0);
    const [samples, end] = readVarint(body, at);
    return end === body.length ? { frames, samples } : null;
  } catch {
    return null;
  }
}
