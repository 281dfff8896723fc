// The moving picture: time runs to the left, what is heard now enters at the right edge. Each strip is a ring of columns on a
// canvas of its own, drawn scaled into the visible one.

import { levels } from "./spectrum.js";

const SECONDS = 4;
const HOP = 160; // samples per column of a spectrogram
const ROWS = 112;
const SPAN = 512;

class Ring {
  /** @param {HTMLCanvasElement} canvas @param {number} columns @param {number} rows */
  constructor(canvas, columns, rows) {
    this.canvas = canvas;
    this.columns = columns;
    this.rows = rows;
    this.at = 0;
    this.store = new OffscreenCanvas(columns, rows);
    this.pen = /** @type {OffscreenCanvasRenderingContext2D} */ (this.store.getContext("2d"));
    this.column = new ImageData(1, rows);
  }

  /** Takes the pixels of `column`. */
  push() {
    this.pen.putImageData(this.column, this.at, 0);
    this.at = (this.at + 1) % this.columns;
  }

  clear() {
    this.pen.clearRect(0, 0, this.columns, this.rows);
  }

  /** @param {boolean} smooth */
  draw(smooth) {
    const { canvas } = this;
    const scale = Math.min(2, devicePixelRatio);
    const width = Math.round(canvas.clientWidth * scale);
    const height = Math.round(canvas.clientHeight * scale);
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const brush = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    brush.clearRect(0, 0, width, height);
    brush.imageSmoothingEnabled = smooth;
    const left = this.columns - this.at; // columns from the oldest to the end of the ring
    const split = Math.round((width * left) / this.columns);
    if (left) brush.drawImage(this.store, this.at, 0, left, this.rows, 0, 0, split, height);
    if (this.at) brush.drawImage(this.store, 0, 0, this.at, this.rows, split, 0, width - split, height);
    return brush;
  }
}

class Spectrogram {
  #ring;
  #samples = new Float32Array(SPAN);
  #levels = new Uint8Array(ROWS);
  #colours;

  /** @param {HTMLCanvasElement} canvas @param {number} rate @param {Uint8ClampedArray} colours */
  constructor(canvas, rate, colours) {
    this.#ring = new Ring(canvas, Math.round((SECONDS * rate) / HOP), ROWS);
    this.#colours = colours;
  }

  /** @param {Float32Array} samples whole hops */
  push(samples) {
    for (let start = 0; start < samples.length; start += HOP) {
      this.#samples.copyWithin(0, HOP);
      this.#samples.set(samples.subarray(start, start + HOP), SPAN - HOP);
      levels(this.#samples, 0, this.#levels);
      const pixels = this.#ring.column.data;
      for (let row = 0; row < ROWS; row++) {
        const colour = 4 * this.#levels[ROWS - 1 - row];
        for (let i = 0; i < 4; i++) pixels[4 * row + i] = this.#colours[colour + i];
      }
      this.#ring.push();
    }
  }

  clear() {
    this.#ring.clear();
    this.#samples.fill(0);
  }

  draw() {
    this.#ring.draw(true);
  }
}

class CodePicture {
  #ring;
  #colours;
  #rows;

  /** @param {HTMLCanvasElement} canvas @param {number} frameRate @param {number} codebooks @param {number} size @param {Uint8ClampedArray} colours */
  constructor(canvas, frameRate, codebooks, size, colours) {
    this.#rows = codebooks;
    this.#ring = new Ring(canvas, Math.round(SECONDS * frameRate), codebooks);
    this.#colours = Uint8ClampedArray.from({ length: 4 * size }, (_, i) => {
      const share = ((i >> 2) * 0.61803398875) % 1; // neighbouring numbers mean nothing to each other, so give them far colours
      return colours[4 * Math.round(40 + 205 * share) + (i & 3)];
    });
  }

  /** @param {Int16Array} codes @param {number} used @param {boolean} lost */
  push(codes, used, lost) {
    const pixels = this.#ring.column.data;
    for (let row = 0; row < this.#rows; row++) {
      const alpha = lost ? 255 : row < used ? 255 : row < codes.length ? 46 : 0;
      for (let i = 0; i < 3; i++) pixels[4 * row + i] = lost ? [120, 24, 40][i] : this.#colours[4 * (codes[row] ?? 0) + i];
      pixels[4 * row + 3] = alpha;
    }
    this.#ring.push();
  }

  clear() {
    this.#ring.clear();
  }

  draw() {
    const brush = this.#ring.draw(false);
    const { width, height } = brush.canvas;
    const gap = Math.max(1, Math.round(height / this.#rows / 7));
    for (let row = 0; row <= this.#rows; row++) brush.clearRect(0, Math.round((row * height) / this.#rows) - gap / 2, width, gap);
  }
}

export class Tape {
  /** @type {import("./protocol.js").Block[]} */
  #waiting = [];
  #changed = true;

  /** @param {{original: HTMLCanvasElement, codes: HTMLCanvasElement, decoded: HTMLCanvasElement}} canvases @param {import("../src/codec.js").Info} info */
  constructor(canvases, info) {
    const colours = palette(["#07060f", "#1d1147", "#51127c", "#822681", "#b63679", "#e65164", "#fb8861", "#fec287", "#fcfdbf"]);
    const weave = palette(["#1b2a6b", "#2c5aa0", "#2b8fb3", "#33b5a5", "#7fd08b", "#f0d06a", "#f39a5b", "#e3617a", "#a04bb0"]);
    this.original = new Spectrogram(canvases.original, info.sampleRate, colours);
    this.decoded = new Spectrogram(canvases.decoded, info.sampleRate, colours);
    this.codes = new CodePicture(canvases.codes, info.frameRate, info.numCodebooks, info.codebookSize, weave);
    addEventListener("resize", () => (this.#changed = true));
    const draw = () => {
      if (this.#changed) for (const strip of [this.original, this.codes, this.decoded]) strip.draw();
      this.#changed = false;
      requestAnimationFrame(draw);
    };
    draw();
  }

  /** A block that the player will come to. @param {import("./protocol.js").Block} block */
  queue(block) {
    this.#waiting.push(block);
  }

  /** The player has come to block `seq`; gives the blocks that are shown now. @param {number} seq */
  reach(seq) {
    const reached = this.#waiting.filter((block) => block.seq <= seq);
    this.#waiting = this.#waiting.filter((block) => block.seq > seq);
    for (const { original, decoded, codes, used, lost } of reached) {
      this.original.push(original ?? new Float32Array(decoded.length));
      this.decoded.push(decoded);
      this.codes.push(codes, used, lost);
    }
    this.#changed = true;
    return reached;
  }

  /** What was queued will not be heard. */
  forget() {
    this.#waiting = [];
  }

  clear() {
    this.forget();
    for (const strip of [this.original, this.codes, this.decoded]) strip.clear();
    this.#changed = true;
  }
}

/** 256 colours, RGBA, evenly through the given ones. @param {string[]} stops */
function palette(stops) {
  const rgb = stops.map((stop) => [1, 3, 5].map((i) => parseInt(stop.slice(i, i + 2), 16)));
  return Uint8ClampedArray.from({ length: 1024 }, (_, i) => {
    const place = ((i >> 2) / 255) * (stops.length - 1);
    const low = Math.min(stops.length - 2, Math.floor(place));
    return (i & 3) === 3 ? 255 : rgb[low][i & 3] + (place - low) * (rgb[low + 1][i & 3] - rgb[low][i & 3]);
  });
}
