// What the page, the worker and the two audio worklets say to each other. Samples are at the model's rate unless it says otherwise.

import type { Info } from "../src/codec.js";

export type ToWorker =
  | { type: "start"; player: MessagePort }
  | { type: "record"; rate: number; microphone: MessagePort } // a new clip from a microphone at `rate` Hz, decoded as it comes
  | { type: "stop" } // the end of the recording
  | { type: "encode"; samples: Float32Array } // a new clip from a file
  | { type: "open"; bytes: Uint8Array; salvage: boolean; part: number } // a new clip from a .stk, which may hold several
  | { type: "play"; from: number } // decode from this sample on, for the player
  | { type: "pause" }
  | { type: "settings"; codebooks: number; loss: number } // how many are decoded, and the share of frames that is lost
  | { type: "save" };

export type FromWorker =
  | { type: "progress"; bytes: number }
  | { type: "ready"; info: Info }
  | {
      type: "clip";
      numSamples: number;
      seconds: number;
      hasOriginal: boolean;
      complete: boolean;
      codebooks: number;
      note: string;
      part: number;
      parts: number;
    }
  | Block
  | { type: "cost"; encode: Cost | null; decode: Cost | null }
  | { type: "file"; bytes: Uint8Array }
  | { type: "error"; kind: string; message: string; salvageable: boolean };

/** Milliseconds per frame. */
export type Cost = { p50: number; p99: number; mean: number; frames: number };

/** One frame, decoded: what is heard and seen. */
export type Block = {
  type: "block";
  seq: number; // counts blocks, through all clips
  index: number; // of its first sample in the clip
  original: Float32Array | null;
  decoded: Float32Array;
  codes: Int16Array; // of all codebooks that are there, decoded or not
  used: number; // how many were decoded
  lost: boolean;
};

export type ToPlayer =
  | { type: "block"; seq: number; index: number; original: Float32Array | null; decoded: Float32Array } // from the worker
  | { type: "flush"; live: boolean } // forget what is queued
  | { type: "end" } // nothing follows
  | { type: "hear"; original: boolean } // from the page
  | { type: "volume"; value: number }
  | { type: "run"; playing: boolean };

export type FromPlayer =
  | { type: "consumed"; seq: number } // to the worker
  | { type: "position"; seq: number; index: number } // to the page: this block has begun
  | { type: "ended" };
