// The Fourier transform of short real signals by its definition: a frame of 320 needs it a few times a second, speed is no matter.

export class Dft {
  /** @param {number} size */
  constructor(size) {
    this.size = size;
    this.bins = Math.floor(size / 2) + 1;
    this.cos = Float64Array.from({ length: size }, (_, i) => Math.cos((2 * Math.PI * i) / size));
    this.sin = Float64Array.from({ length: size }, (_, i) => Math.sin((2 * Math.PI * i) / size));
  }

  /** @param {Float32Array} x */
  forward(x) {
    const re = new Float64Array(this.bins);
    const im = new Float64Array(this.bins);
    for (let k = 0; k < this.bins; k++) {
      for (let n = 0, turn = 0; n < this.size; n++) {
        re[k] += x[n] * this.cos[turn];
        im[k] -= x[n] * this.sin[turn];
        if ((turn += k) >= this.size) turn -= this.size;
      }
    }
    return { re, im };
  }

  /** @param {Float64Array} re @param {Float64Array} im */
  inverse(re, im) {
    const x = new Float64Array(this.size);
    for (let k = 0; k < this.bins; k++) {
      const share = (k === 0 || 2 * k === this.size ? 1 : 2) / this.size; // every other bin stands for two
      for (let n = 0, turn = 0; n < this.size; n++) {
        x[n] += share * (re[k] * this.cos[turn] - im[k] * this.sin[turn]);
        if ((turn += k) >= this.size) turn -= this.size;
      }
    }
    return x;
  }
}
