// Short-time spectra for the pictures: a Hann window of 512 samples, levels on a scale that gives low frequencies more room.

const SIZE = 512;
const FLOOR = -78; // dB that are black
const TOP = -2; // dB that are brightest

const window = Float32Array.from({ length: SIZE }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * (i + 0.5)) / SIZE));
const cos = Float32Array.from({ length: SIZE / 2 }, (_, i) => Math.cos((2 * Math.PI * i) / SIZE));
const sin = Float32Array.from({ length: SIZE / 2 }, (_, i) => Math.sin((2 * Math.PI * i) / SIZE));
const order = Uint16Array.from({ length: SIZE }, (_, i) => {
  let reversed = 0;
  for (let bit = 1; bit < SIZE; bit *= 2) reversed = reversed * 2 + (i & bit ? 1 : 0);
  return reversed;
});
const re = new Float32Array(SIZE);
const im = new Float32Array(SIZE);

/** Levels 0…255 of `rows` bands, the lowest first, of the 512 samples from `start` on. @param {Float32Array} samples @param {number} start @param {Uint8Array} rows */
export function levels(samples, start, rows) {
  for (let i = 0; i < SIZE; i++) {
    re[order[i]] = samples[start + i] * window[i];
    im[i] = 0;
  }
  for (let half = 1; half < SIZE; half *= 2) {
    const turn = SIZE / 2 / half;
    for (let block = 0; block < SIZE; block += 2 * half) {
      for (let k = 0; k < half; k++) {
        const [a, b] = [block + k, block + k + half];
        const [c, s] = [cos[k * turn], -sin[k * turn]];
        const [x, y] = [re[b] * c - im[b] * s, re[b] * s + im[b] * c];
        re[b] = re[a] - x;
        im[b] = im[a] - y;
        re[a] += x;
        im[a] += y;
      }
    }
  }
  for (let row = 0; row < rows.length; row++) {
    const bin = bins(row / rows.length);
    const next = Math.max(bin + 1, bins((row + 1) / rows.length));
    let power = 0;
    for (let k = Math.floor(bin); k < next; k++) power = Math.max(power, re[k] ** 2 + im[k] ** 2);
    const db = 10 * Math.log10(power / SIZE + 1e-12) + 6 * Math.log2(1 + bin / 24) - 12; // speech falls with frequency: tilt it up
    rows[row] = Math.max(0, Math.min(255, (255 * (db - FLOOR + 12)) / (TOP - FLOOR)));
  }
}

/** Bin at a share of the height: the low ones get more room. @param {number} share */
function bins(share) {
  return (SIZE / 2) * (0.45 * share + 0.55 * share ** 2.2);
}
