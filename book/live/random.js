// Random numbers that a seed repeats, on every machine.
(function (FlowVAE) {
  "use strict";

  const { Tensor } = FlowVAE;

  // Mulberry32: 32 bits of state, good enough for pictures and small models.
  class Random {
    constructor(seed) {
      this.state = Math.imul((seed | 0) + 1, 0x9e3779b1);
      this.spare = null;
    }

    uniform() {
      this.state = (this.state + 0x6d2b79f5) | 0;
      let t = Math.imul(this.state ^ (this.state >>> 15), 1 | this.state);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
    }

    integer(below) {
      return Math.floor(below * this.uniform());
    }

    // Box and Muller: two at a time, the second is kept.
    normal() {
      if (this.spare !== null) {
        const spare = this.spare;
        this.spare = null;
        return spare;
      }
      const radius = Math.sqrt(-2 * Math.log(1 - this.uniform()));
      const angle = 2 * Math.PI * this.uniform();
      this.spare = radius * Math.sin(angle);
      return radius * Math.cos(angle);
    }

    normals(rows, cols) {
      return new Tensor(rows, cols, Float64Array.from({ length: rows * cols }, () => this.normal()));
    }

    uniforms(rows) {
      return new Tensor(rows, 1, Float64Array.from({ length: rows }, () => this.uniform()));
    }

    // The first `count` of the numbers below n in random order.
    choose(count, n) {
      const numbers = Array.from({ length: n }, (_, i) => i);
      for (let i = 0; i < count; i++) {
        const j = i + this.integer(n - i);
        [numbers[i], numbers[j]] = [numbers[j], numbers[i]];
      }
      return numbers.slice(0, count);
    }
  }

  FlowVAE.Random = Random;
})((globalThis.FlowVAE = globalThis.FlowVAE || {}));
