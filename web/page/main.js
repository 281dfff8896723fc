// The page: what the buttons do, what the numbers say. Sound and network are elsewhere (sound.js, worker.js), the picture is in tape.js.

import { Microphone, Player, microphoneMessage, readAudio } from "./sound.js";
import { Tape } from "./tape.js";

/** @typedef {import("./protocol.js").ToWorker} ToWorker */
/** @typedef {import("./protocol.js").FromWorker} FromWorker */

/** @template {HTMLElement} [E=HTMLElement] @param {string} id */
const $ = (id) => /** @type {E} */ (document.getElementById(id));
const button = (/** @type {string} */ id) => /** @type {HTMLButtonElement} */ ($(id));
const input = (/** @type {string} */ id) => /** @type {HTMLInputElement} */ ($(id));
const hear = /** @type {HTMLInputElement[]} */ ([...document.querySelectorAll("input[name=hear]")]);

const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11]; // smallest module with it
const DOWNLOAD = 6.2e6; // bytes of WebAssembly and model, about: for the progress bar only

const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
const { port1, port2 } = new MessageChannel();
const send = (/** @type {ToWorker} */ message, /** @type {Transferable[]} */ transfer = []) => worker.postMessage(message, transfer);

/** @type {import("../src/codec.js").Info} */
let info;
/** @type {Tape} */
let tape;
/** @type {Player} */
let player;
/** @type {Microphone | null} */
let microphone = null;
/** @type {Extract<FromWorker, {type: "clip"}> | null} */
let clip = null;
let name = "speech"; // of the file that is saved
let playing = false;
let position = 0; // samples
let seeking = false;
let shown = { frames: 0, lost: 0 }; // since the clip began
let loaded = 0; // bytes

// -- from the worker -------------------------------------------------------------------------------------------------

/** @type {{[T in FromWorker["type"]]: (message: Extract<FromWorker, {type: T}>) => void}} */
const receive = {
  progress({ bytes }) {
    loaded += bytes;
    /** @type {HTMLProgressElement} */ ($("progress")).value = Math.min(1, loaded / DOWNLOAD);
    $("loading-text").textContent = `Loading the codec: ${(loaded / 1e6).toFixed(1)} MB`;
  },

  ready(message) {
    info = message.info;
    tape = new Tape({ original: $("canvas-original"), codes: $("canvas-codes"), decoded: $("canvas-decoded") }, info);
    player = new Player(info.sampleRate, port2, fromPlayer);
    input("bitrate").max = String(info.numCodebooks);
    $("loading").hidden = true;
    for (const id of ["record", "example", "open"]) button(id).disabled = false;
    settings();
    document.documentElement.dataset.ready = "true";
    setTimeout(() => navigator.serviceWorker?.register("sw.js").catch(() => {}), 2000); // offline is a bonus: first things first
  },

  clip(message) {
    clip = message;
    const { note, part, parts } = clip;
    if (note) say(`Some of the file was damaged; what is intact plays. ${note}`);
    else if (parts > 1) {
      const next = (part + 1) % parts;
      say(`Recording ${part + 1} of ${parts} in this file.`, { text: `Play number ${next + 1}`, act: () => openStk(lastBytes, false, next) });
    }
    refresh();
  },

  block(block) {
    tape.queue(block);
  },

  cost({ encode, decode }) {
    const both = (encode?.mean ?? 0) + (decode?.mean ?? 0);
    const frame = 1000 / info.frameRate;
    $("fact-ms").textContent = `${((encode?.p50 ?? 0) + (decode?.p50 ?? 0)).toFixed(1)} ms`;
    const part = (/** @type {import("./protocol.js").Cost | null} */ cost, /** @type {string} */ verb) =>
      cost ? `${verb} ${cost.p50.toFixed(1)}, p99 ${cost.p99.toFixed(1)}` : "";
    $("fact-ms-more").textContent = [part(encode, "encode"), part(decode, "decode")].filter(Boolean).join(" · ");
    $("fact-core").textContent = `${Math.round((100 * both) / frame)} %`;
  },

  file({ bytes }) {
    const link = /** @type {HTMLAnchorElement} */ ($("download"));
    URL.revokeObjectURL(link.href);
    link.href = URL.createObjectURL(new Blob([/** @type {Uint8Array<ArrayBuffer>} */ (bytes)], { type: "application/octet-stream" }));
    link.download = `${name}-${kbps(bitrate()).replace(" kbit/s", "kbps")}.stk`;
    link.click();
  },

  error({ message, salvageable }) {
    if (!info) {
      $("loading").hidden = true;
      say(`The codec does not load: ${message}. Reload the page to try again.`);
      return;
    }
    if (playing && !clip) halt();
    if (salvageable) {
      say(`The file is damaged: ${message}.`, { text: "Play what is intact", act: () => openStk(lastBytes, true) });
    } else {
      say(message);
    }
  },
};

worker.onmessage = (/** @type {MessageEvent} */ { data }) => receive[/** @type {FromWorker["type"]} */ (data.type)](/** @type {never} */ (data));
worker.onerror = () => say("This browser is too old for the page, or a file of it is missing. A current Chrome, Firefox, Edge or Safari will do.");

/** @param {import("./protocol.js").FromPlayer} message */
function fromPlayer(message) {
  if (message.type === "position") {
    position = message.index;
    for (const block of tape.reach(message.seq)) {
      shown.frames += 1;
      shown.lost += Number(block.lost);
      document.dispatchEvent(new CustomEvent("spectok:block", { detail: block })); // for scripts that want to look on
    }
    $("fact-lost").textContent = `${((100 * shown.lost) / Math.max(1, shown.frames)).toFixed(1)} %`;
    if (!seeking) showTime();
  } else if (message.type === "ended") {
    position = 0;
    if (button("loop").ariaPressed === "true" && !microphone) play(0);
    else halt();
  }
}

// -- what people do --------------------------------------------------------------------------------------------------

/** @param {number} from sample */
async function play(from) {
  tape.forget();
  position = from;
  playing = true;
  await player.wake();
  player.send({ type: "volume", value: 1 });
  player.send({ type: "run", playing: true });
  send({ type: "play", from });
  refresh();
}

function halt() {
  playing = false;
  player.send({ type: "run", playing: false });
  send({ type: "pause" });
  tape.forget();
  refresh();
}

/** Before a new clip. @param {string} title */
async function fresh(title) {
  await player.wake(); // first of all, while the click still counts
  say("");
  name = title;
  shown = { frames: 0, lost: 0 };
  position = 0;
  clip = null;
  tape.clear();
  input("bitrate").max = String(info.numCodebooks);
  $("hint").hidden = true;
}

async function record() {
  if (microphone) return stopRecording();
  button("record").disabled = true;
  try {
    await player.wake();
    microphone = await Microphone.open();
  } catch (error) {
    say(microphoneMessage(error));
    return;
  } finally {
    button("record").disabled = false;
  }
  await fresh("recording");
  playing = true;
  player.send({ type: "volume", value: Number(input("monitor").checked) });
  player.send({ type: "run", playing: true });
  send({ type: "record", rate: microphone.context.sampleRate, microphone: microphone.port }, [microphone.port]);
  refresh();
}

function stopRecording() {
  microphone?.close();
  microphone = null;
  send({ type: "stop" });
  void play(0);
}

async function example() {
  if (microphone) stopRecording();
  await fresh("example");
  const response = await fetch(new URL("../example.flac", import.meta.url));
  await encode(await response.arrayBuffer());
}

/** @param {ArrayBuffer} bytes */
async function encode(bytes) {
  let samples;
  try {
    samples = await readAudio(bytes, info.sampleRate);
  } catch {
    return say("This is no sound that the browser can read. WAV, FLAC, MP3 and Ogg are safe choices; a .stk works, too.");
  }
  if (!samples.length) return say("There is no sound in this file.");
  send({ type: "encode", samples }, [samples.buffer]);
  await play(0);
}

/** @type {Uint8Array} */
let lastBytes = new Uint8Array(0);

/** @param {Uint8Array} bytes @param {boolean} salvage @param {number} [part] */
async function openStk(bytes, salvage, part = 0) {
  lastBytes = bytes;
  send({ type: "open", bytes, salvage, part });
  await play(0);
  input("bitrate").value = input("bitrate").max; // all that is in the file
  settings();
}

/** @param {File} file */
async function openFile(file) {
  if (microphone) stopRecording();
  const bytes = new Uint8Array(await file.arrayBuffer());
  await fresh(file.name.replace(/\.[^.]*$/, "") || "speech");
  if (file.name.toLowerCase().endsWith(".stk") || (bytes[0] === 0x89 && bytes[1] === 0x53 && bytes[2] === 0x54)) await openStk(bytes, false);
  else await encode(bytes.buffer);
}

/** @param {boolean} original */
function listen(original) {
  const [first, second] = hear;
  (original ? first : second).checked = true;
  player.send({ type: "hear", original });
  refresh();
}

// -- what is shown ---------------------------------------------------------------------------------------------------

function bitrate() {
  return info.bitrates[Number(input("bitrate").value) - 1];
}

function settings() {
  const codebooks = Number(input("bitrate").value);
  const loss = Number(input("loss").value) / 100;
  send({ type: "settings", codebooks, loss });
  const raw = 16 * info.sampleRate;
  $("bitrate-text").textContent = kbps(bitrate());
  $("rate-codes").textContent = `${kbps(bitrate())} · ${codebooks * info.frameRate} a second`;
  $("rate-original").textContent = kbps(raw);
  $("bitrate-note").textContent = `${Math.round(raw / bitrate())} times smaller than what comes in · ${codebooks} of ${info.numCodebooks} codebooks`;
  input("bitrate").setAttribute("aria-valuetext", kbps(bitrate()));
  $("loss-text").textContent = `${input("loss").value} %`;
  input("loss").setAttribute("aria-valuetext", `${input("loss").value} percent`);
  refresh();
}

function refresh() {
  const original = hear[0].checked && !!clip?.hasOriginal;
  const recording = microphone !== null;
  document.documentElement.dataset.state = recording ? "recording" : playing ? "playing" : "idle";
  const silent = recording && !input("monitor").checked;
  $("strip-original").classList.toggle("heard", original && !silent);
  $("strip-decoded").classList.toggle("heard", !original && clip !== null && !silent);
  $("strip-original").classList.toggle("absent", clip !== null && !clip.hasOriginal);
  $("record").querySelector(".label")?.replaceChildren(recording ? "Stop" : "Record");
  button("play").disabled = recording || !clip;
  button("play").ariaLabel = playing ? "Pause" : "Play";
  for (const radio of hear) radio.disabled = !clip || (radio.value === "original" && !clip.hasOriginal);
  button("save").disabled = !clip?.complete;
  input("position").disabled = recording || !clip;
  if (!clip) return;
  input("bitrate").max = String(clip.codebooks);
  input("position").max = String(clip.seconds);
  const bytes = (clip.numSamples / info.frameSize) * (Number(input("bitrate").value) * info.bitsPerCode) / 8;
  $("fact-size").textContent = kilobytes(bytes);
  $("fact-size-more").textContent = `${kilobytes(2 * clip.numSamples)} as plain PCM`;
  showTime();
}

function showTime() {
  const seconds = position / info.sampleRate;
  if (!seeking) input("position").value = String(seconds);
  const clock = (/** @type {number} */ s) => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;
  $("time").textContent = `${clock(seconds)} / ${clock(clip?.seconds ?? 0)}`;
}

/** @param {string} text @param {{text: string, act: () => void}} [offer] */
function say(text, offer) {
  const message = $("message");
  message.hidden = !text;
  message.textContent = text;
  if (offer) {
    const more = document.createElement("button");
    more.type = "button";
    more.textContent = offer.text;
    more.onclick = () => {
      say("");
      offer.act();
    };
    message.append(" ", more);
  }
}

/** @param {number} bits per second */
function kbps(bits) {
  return `${bits / 1000} kbit/s`;
}

/** @param {number} bytes */
function kilobytes(bytes) {
  return bytes < 1e5 ? `${(bytes / 1000).toFixed(1)} kB` : bytes < 1e6 ? `${Math.round(bytes / 1000)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

// -- wiring ----------------------------------------------------------------------------------------------------------

button("record").onclick = record;
button("example").onclick = example;
button("open").onclick = () => input("file").click();
button("play").onclick = () => (playing ? halt() : play(position));
button("save").onclick = () => send({ type: "save" });
button("loop").onclick = () => (button("loop").ariaPressed = button("loop").ariaPressed === "true" ? "false" : "true");
input("file").onchange = () => {
  const [file] = input("file").files ?? [];
  input("file").value = ""; // the same file may be chosen again
  if (file) void openFile(file);
};
input("monitor").onchange = () => {
  if (!microphone) return;
  player.send({ type: "volume", value: Number(input("monitor").checked) });
  refresh();
};
input("bitrate").oninput = settings;
input("loss").oninput = settings;
for (const radio of hear) radio.onchange = () => listen(radio.value === "original");
input("position").oninput = () => {
  seeking = true;
  position = Number(input("position").value) * info.sampleRate;
  showTime();
};
input("position").onchange = () => {
  seeking = false;
  if (playing) void play(position);
};

/** @type {Record<string, () => void>} */
const keys = {
  r: () => button("record").click(),
  " ": () => button("play").click(),
  x: () => !hear[0].disabled && listen(!hear[0].checked),
  "[": () => step(-1),
  "]": () => step(1),
};
addEventListener("click", ({ detail, target }) => {
  if (detail && target instanceof Element) target.closest("button")?.blur(); // after a click the space bar is for playing
});
addEventListener("keydown", (event) => {
  const own = event.target instanceof HTMLElement && event.target.closest("button, a, input:not([type=range], [type=radio])");
  if (event.ctrlKey || event.metaKey || event.altKey || !info || (own && event.key === " ")) return;
  const action = keys[event.key.toLowerCase()];
  if (!action) return;
  event.preventDefault();
  action();
});

/** @param {number} by */
function step(by) {
  const slider = input("bitrate");
  slider.value = String(Number(slider.value) + by);
  settings();
}

const drop = $("drop");
addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.hidden = !info;
});
addEventListener("dragleave", (event) => event.relatedTarget === null && (drop.hidden = true));
addEventListener("drop", (event) => {
  event.preventDefault();
  drop.hidden = true;
  const file = event.dataTransfer?.files[0];
  if (file && info) void openFile(file);
});

if (!WebAssembly.validate(new Uint8Array(SIMD))) {
  $("loading").hidden = true;
  say("This browser has no WebAssembly SIMD, which the codec needs. Chrome 91, Firefox 89, Safari 16.4 or newer will do.");
} else if (!globalThis.AudioWorkletNode || !globalThis.crypto?.subtle) {
  $("loading").hidden = true;
  say("Browsers let pages work with sound only on https or localhost. Open this page there.");
} else {
  send({ type: "start", player: port1 }, [port1]);
}
