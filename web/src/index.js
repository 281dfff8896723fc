// SpecTokenizer in a browser (or any JavaScript with WebAssembly SIMD): see README.md for a ten-line example.

export { Codec, load } from "./codec.js";
export { Codes } from "./codes.js";
export * from "./errors.js";
export { Resampler, resample } from "./resample.js";
export { Decoder, Encoder } from "./streams.js";
export { Header, Recording, Writer, readStk, writeStk } from "./stk.js";
export { readWav } from "./wav.js";
