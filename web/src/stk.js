// The `.stk` file: a header, packets of frames, optional records, an end record; perhaps another such stream behind it.

export { Header } from "./header.js";
export { Recording, readStk } from "./reader.js";
export { Writer, writeStk } from "./writer.js";
