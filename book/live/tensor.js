// Matrices of float64 numbers, and their gradients by the chain rule, the last operation first.
//
// Outside of `gradients` nothing is recorded. Shapes are (rows, cols): an example a row, so that
// (N, D) is a batch, (1, D) is shared by all examples and (N, 1) is one number an example.
(function (FlowVAE) {
  "use strict";

  const LOG_2_PI = Math.log(2 * Math.PI);
  let tape = null;

  class Tensor {
    constructor(rows, cols, data) {
      this.rows = rows;
      this.cols = cols;
      this.data = data || new Float64Array(rows * cols);
      this.grad = null;
      this.back = null;
    }

    static from(rows) {
      return new Tensor(rows.length, rows[0].length, Float64Array.from(rows.flat()));
    }

    // What is learned: its gradient adds up until a step of `Adam` clears it.
    static parameter(rows, cols, data) {
      const tensor = new Tensor(rows, cols, data);
      tensor.grad = new Float64Array(rows * cols);
      return tensor;
    }

    row(index) {
      return this.data.subarray(index * this.cols, (index + 1) * this.cols);
    }

    rowsAt(indices) {
      const out = new Tensor(indices.length, this.cols);
      indices.forEach((index, r) => out.data.set(this.row(index), r * this.cols));
      return out;
    }

    // Rows `from` up to `to`, without their gradients.
    part(from, to = this.rows) {
      return new Tensor(to - from, this.cols, this.data.slice(from * this.cols, to * this.cols));
    }
  }

  // `back` adds to the gradients of the inputs; it is kept if one of them has a gradient.
  function record(out, inputs, back) {
    if (tape && inputs.some((input) => input.grad)) {
      out.grad = new Float64Array(out.data.length);
      out.back = back;
      tape.push(out);
    }
    return out;
  }

  // Runs `loss`, which returns a (1, 1), adds its gradient to that of each parameter, returns it.
  function gradients(loss) {
    tape = [];
    try {
      const value = loss();
      value.grad[0] = 1;
      while (tape.length) tape.pop().back();
      return value;
    } finally {
      tape = null;
    }
  }

  const constant = (x) => (x instanceof Tensor ? x : new Tensor(1, 1, Float64Array.of(x)));

  // Elementwise: `f` gives the value, `da` and `db` the slopes, each of a and b.
  function binary(a, b, f, da, db) {
    a = constant(a);
    b = constant(b);
    const rows = Math.max(a.rows, b.rows), cols = Math.max(a.cols, b.cols);
    const fits = (t) => (t.rows === 1 || t.rows === rows) && (t.cols === 1 || t.cols === cols);
    if (!fits(a) || !fits(b)) {
      throw new Error(`shapes (${a.rows}, ${a.cols}) and (${b.rows}, ${b.cols}) do not fit`);
    }
    const out = new Tensor(rows, cols);
    const [ar, ac, br, bc] = [a, b].flatMap((t) => [t.rows > 1 ? t.cols : 0, t.cols > 1 ? 1 : 0]);
    const A = a.data, B = b.data, Y = out.data;
    for (let r = 0, i = 0; r < rows; r++) {
      for (let c = 0, j = r * ar, k = r * br; c < cols; c++, i++, j += ac, k += bc) {
        Y[i] = f(A[j], B[k]);
      }
    }
    return record(out, [a, b], () => {
      const G = out.grad, gA = a.grad, gB = b.grad;
      for (let r = 0, i = 0; r < rows; r++) {
        for (let c = 0, j = r * ar, k = r * br; c < cols; c++, i++, j += ac, k += bc) {
          if (gA) gA[j] += G[i] * da(A[j], B[k]);
          if (gB) gB[k] += G[i] * db(A[j], B[k]);
        }
      }
    });
  }

  const add = (a, b) => binary(a, b, (x, y) => x + y, () => 1, () => 1);
  const sub = (a, b) => binary(a, b, (x, y) => x - y, () => 1, () => -1);
  const mul = (a, b) => binary(a, b, (x, y) => x * y, (x, y) => y, (x) => x);

  // Elementwise: `f` gives the value, `slope` the slope from x and from that value.
  function unary(x, f, slope) {
    const out = new Tensor(x.rows, x.cols);
    for (let i = 0; i < out.data.length; i++) out.data[i] = f(x.data[i]);
    return record(out, [x], () => {
      for (let i = 0; i < out.data.length; i++) {
        x.grad[i] += out.grad[i] * slope(x.data[i], out.data[i]);
      }
    });
  }

  const sigmoid = (x) => 1 / (1 + Math.exp(-x));
  const exp = (x) => unary(x, Math.exp, (_, y) => y);
  const log = (x) => unary(x, Math.log, (v) => 1 / v);
  const tanh = (x) => unary(x, Math.tanh, (_, y) => 1 - y * y);
  const square = (x) => unary(x, (v) => v * v, (v) => 2 * v);
  const softplus = (x) =>
    unary(x, (v) => Math.max(v, 0) + Math.log1p(Math.exp(-Math.abs(v))), sigmoid);
  const silu = (x) =>
    unary(x, (v) => v * sigmoid(v), (v, y) => {
      const s = sigmoid(v);
      return s + y * (1 - s);
    });

  // x (N, I), weight (O, I), bias (1, O), (N, O) or null: x Wᵀ + b, (N, O).
  function linear(x, weight, bias) {
    const N = x.rows, I = weight.cols, O = weight.rows;
    const out = new Tensor(N, O), X = x.data, W = weight.data, Y = out.data;
    const B = bias && bias.data, own = bias && bias.rows > 1 ? O : 0;
    for (let n = 0; n < N; n++) {
      for (let o = 0; o < O; o++) {
        let sum = B ? B[n * own + o] : 0;
        for (let i = 0, w = o * I, v = n * I; i < I; i++) sum += X[v + i] * W[w + i];
        Y[n * O + o] = sum;
      }
    }
    return record(out, bias ? [x, weight, bias] : [x, weight], () => {
      const G = out.grad, gX = x.grad, gW = weight.grad, gB = bias && bias.grad;
      for (let n = 0; n < N; n++) {
        for (let o = 0; o < O; o++) {
          const g = G[n * O + o];
          if (gB) gB[n * own + o] += g;
          if (!gW) continue;
          for (let i = 0, w = o * I, v = n * I; i < I; i++) gW[w + i] += g * X[v + i];
        }
        if (!gX) continue;
        for (let o = 0; o < O; o++) {
          const g = G[n * O + o];
          for (let i = 0, w = o * I, v = n * I; i < I; i++) gX[v + i] += g * W[w + i];
        }
      }
    });
  }

  // The columns of x at `indices`, in their order.
  function columns(x, indices) {
    const out = new Tensor(x.rows, indices.length);
    const each = (visit) => {
      for (let r = 0, i = 0; r < x.rows; r++) {
        for (const c of indices) visit(i++, r * x.cols + c);
      }
    };
    each((i, j) => { out.data[i] = x.data[j]; });
    return record(out, [x], () => each((i, j) => { x.grad[j] += out.grad[i]; }));
  }

  // [a, b] side by side.
  function concat(a, b) {
    const rows = a.rows, cols = a.cols + b.cols, out = new Tensor(rows, cols);
    const each = (visit) => {
      for (let r = 0; r < rows; r++) {
        for (let c = 0; c < a.cols; c++) visit(a, r * a.cols + c, r * cols + c);
        for (let c = 0; c < b.cols; c++) visit(b, r * b.cols + c, r * cols + a.cols + c);
      }
    };
    each((from, i, j) => { out.data[j] = from.data[i]; });
    return record(out, [a, b], () =>
      each((from, i, j) => { if (from.grad) from.grad[i] += out.grad[j]; }));
  }

  // Over the columns: (N, D) to (N, 1).
  function rowSum(x) {
    const out = new Tensor(x.rows, 1);
    for (let i = 0; i < x.data.length; i++) out.data[(i / x.cols) | 0] += x.data[i];
    return record(out, [x], () => {
      for (let i = 0; i < x.data.length; i++) x.grad[i] += out.grad[(i / x.cols) | 0];
    });
  }

  // Over everything: (1, 1).
  function mean(x) {
    const out = new Tensor(1, 1), n = x.data.length;
    for (const value of x.data) out.data[0] += value / n;
    return record(out, [x], () => {
      for (let i = 0; i < n; i++) x.grad[i] += out.grad[0] / n;
    });
  }

  // log Σₖ wₖ N(z; locₖ, scaleₖ²): z (N, D), loc and logScale (K, D), logits (1, K), to (N, 1).
  // One operation, since N K gradients of a dozen small ones would take longer than all networks.
  function gaussianMixtureLogProb(z, loc, logScale, logits) {
    const N = z.rows, D = z.cols, K = loc.rows, out = new Tensor(N, 1);
    const precision = logScale.data.map((s) => Math.exp(-2 * s));
    const weight = Float64Array.from(logits.data, (l) => Math.exp(l - Math.max(...logits.data)));
    const total = weight.reduce((sum, w) => sum + w, 0);
    const offset = new Float64Array(K);
    for (let k = 0; k < K; k++) {
      weight[k] /= total;
      offset[k] = Math.log(weight[k]) - 0.5 * D * LOG_2_PI;
      for (let d = 0; d < D; d++) offset[k] -= logScale.data[k * D + d];
    }
    // Of each component, given z: first its log-density, then its share.
    const share = new Float64Array(N * K);
    for (let n = 0; n < N; n++) {
      let top = -Infinity;
      for (let k = 0; k < K; k++) {
        let distance = 0;
        for (let d = 0; d < D; d++) {
          const difference = z.data[n * D + d] - loc.data[k * D + d];
          distance += difference * difference * precision[k * D + d];
        }
        const value = (share[n * K + k] = offset[k] - 0.5 * distance);
        if (value > top) top = value;
      }
      let sum = 0;
      for (let k = 0; k < K; k++) {
        const below = share[n * K + k] - top;
        // Less than float64 resolves; most components are that far away, and exp takes the time.
        sum += share[n * K + k] = below < -40 ? 0 : Math.exp(below);
      }
      for (let k = 0; k < K; k++) share[n * K + k] /= sum;
      out.data[n] = top + Math.log(sum);
    }
    return record(out, [z, loc, logScale, logits], () => {
      for (let n = 0; n < N; n++) {
        for (let k = 0; k < K; k++) {
          const g = out.grad[n] * share[n * K + k];
          if (logits.grad) logits.grad[k] += g - out.grad[n] * weight[k];
          for (let d = 0; d < D; d++) {
            const j = k * D + d, i = n * D + d;
            const difference = z.data[i] - loc.data[j], pull = g * difference * precision[j];
            if (z.grad) z.grad[i] -= pull;
            if (loc.grad) loc.grad[j] += pull;
            if (logScale.grad) logScale.grad[j] += pull * difference - g;
          }
        }
      }
    });
  }

  Object.assign(FlowVAE, {
    LOG_2_PI, Tensor, record, gradients, add, sub, mul, unary, exp, log, tanh, square, softplus, silu,
    linear, columns, concat, rowSum, mean, gaussianMixtureLogProb,
  });
})((globalThis.FlowVAE = globalThis.FlowVAE || {}));
