// Puts the page together: node build.mjs [--model FOLDER] [--example FILE] [--out FOLDER]
//
// The result is a folder for any static host: our files as they are, two files of onnxruntime-web (of its 130 MB), a model, an example.
// The WebAssembly is stored gzipped and unpacked by the page, for many static hosts would send its 14 MB as they are.

import { copyFile, cp, mkdir, readFile, readdir, rm, stat, writeFile } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { gzipSync } from "node:zlib";
import { MODEL_FILES } from "./src/network.js";

const here = dirname(fileURLToPath(import.meta.url));
const { values } = parseArgs({
  options: {
    model: { type: "string", default: join(here, "../src/spectokenizer/assets/mini") },
    example: { type: "string", default: join(here, "../examples/speech.flac") },
    out: { type: "string", default: join(here, "dist") },
  },
});
const out = values.out;
const ort = join(here, "node_modules/onnxruntime-web/dist");

await rm(join(out, "files.json"), { force: true }); // written last: a folder without it is not complete
for (const folder of ["src", "page", "model"]) await rm(join(out, folder), { recursive: true, force: true });
for (const folder of ["model", "ort"]) await mkdir(join(out, folder), { recursive: true });
for (const name of ["index.html", "sw.js", "src", "page"]) {
  await cp(join(here, name), join(out, name), { recursive: true, filter: (path) => !path.endsWith(".d.ts") });
}
for (const name of MODEL_FILES) await copyFile(join(values.model, name), join(out, "model", name));
await copyFile(values.example, join(out, "example.flac"));

await copyFile(join(ort, "ort.wasm.bundle.min.mjs"), join(out, "ort/ort.mjs")).catch(() => {
  console.error("onnxruntime-web is not there: run 'npm ci --omit=dev' in this folder first");
  process.exit(1);
});
const [wasm, packedWasm] = [join(ort, "ort-wasm-simd-threaded.wasm"), join(out, "ort/ort.wasm.gz")];
const newer = await stat(packedWasm).then(async (old) => old.mtime > (await stat(wasm)).mtime, () => false);
if (!newer) await writeFile(packedWasm, gzipSync(await readFile(wasm), { level: 9 })); // takes seconds: not each time

const files = (await readdir(out, { recursive: true, withFileTypes: true }))
  .filter((entry) => entry.isFile())
  .map((entry) => relative(out, join(entry.parentPath, entry.name)).replaceAll("\\", "/"))
  .sort();
let total = 0;
let packed = 0;
for (const name of files) {
  total += (await stat(join(out, name))).size;
  packed += Math.min((await stat(join(out, name))).size, gzipSync(await readFile(join(out, name))).length);
}
await writeFile(join(out, "files.json"), JSON.stringify(files)); // what the service worker keeps for later, offline
console.log(`${out}: ${files.length} files, ${(total / 1e6).toFixed(2)} MB, ${(packed / 1e6).toFixed(2)} MB gzipped`);
