// Metadata of a stream, text by key: the rules of Python's bitstream/metadata.py.

import { CodesError, CorruptedError } from "./errors.js";
import { MAX_BODY } from "./records.js";

const MAX_KEY = 64; // characters
const PRINTABLE = /^(?:[^\p{C}\p{Z}]| )+$/u;
const DATE = /^\d{4}-\d{2}-\d{2}(?:[T ]\d{2}(?::\d{2}(?::\d{2}(?:[.,]\d+)?)?)?(?:Z|[+-]\d{2}(?::?\d{2})?)?)?$/; // of ISO 8601

/** A JSON object in UTF-8. CodesError on what the format cannot hold, and when `created` is no date. @param {Record<string, string>} metadata */
export function packMetadata(metadata) {
  const broken = brokenIn(metadata);
  if (broken) throw new CodesError(`metadata ${broken}`);
  const { created } = metadata;
  if (created !== undefined && !(DATE.test(created) && new Date(created.slice(0, 10)).toISOString().startsWith(created.slice(0, 10)))) {
    throw new CodesError(`metadata 'created' is ${JSON.stringify(created)}; give a date of ISO 8601 such as 2026-01-31T12:00:00Z`);
  }
  const body = new TextEncoder().encode(JSON.stringify(metadata));
  if (body.length > MAX_BODY) throw new CodesError(`metadata take ${body.length} bytes; at most ${MAX_BODY} fit in a file`);
  return body;
}

/** CorruptedError on anything but a JSON object of text by distinct keys. @param {Uint8Array} body @returns {Record<string, string>} */
export function unpackMetadata(body) {
  let text, values;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(body);
    values = JSON.parse(text);
  } catch (error) {
    throw new CorruptedError(`the metadata are not JSON: ${/** @type {Error} */ (error).message}`);
  }
  if (!values || typeof values !== "object" || Array.isArray(values)) throw new CorruptedError("the metadata are not a JSON object");
  // Where all values are text, a key and its value are two strings; JSON.parse keeps the last of those with the same key.
  const strings = text.match(/"(?:[^"\\]|\\.)*"/g) ?? [];
  const broken = brokenIn(values) || (strings.length > 2 * Object.keys(values).length ? "have a key twice" : "");
  if (broken) throw new CorruptedError(`the metadata ${broken}`);
  return values;
}

/** @param {Record<string, unknown>} metadata */
function brokenIn(metadata) {
  for (const [key, value] of Object.entries(metadata)) {
    if (typeof value !== "string") return `must be text by key, not ${value === null ? "null" : typeof value} by ${JSON.stringify(key)}`;
    if ([...key].length > MAX_KEY || !PRINTABLE.test(key)) {
      return `need keys of 1 to ${MAX_KEY} printable characters, not ${JSON.stringify(key.slice(0, MAX_KEY + 1))}`;
    }
    if (/\p{Cs}/u.test(value)) return `'${key}' holds half a character, which is no Unicode text`;
  }
  return "";
}
