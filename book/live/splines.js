// Monotone splines of one number, and the couplings that are made of them.
(function (FlowVAE) {
  "use strict";

  const { Tensor, record, add, sub, mul, unary, exp, log, tanh, rowSum } = FlowVAE;
  const { columns, concat } = FlowVAE;

  // exp(±2): no slope is above 7.4 or below 1 / 7.4.
  const LOG_SCALE_BOUND = 2;
  // The box of a spline, its bins, the least share of the box that a bin has.
  const BOX = 5, BINS = 8, LEAST_BIN = 0.02;

  const range = (from, to) => Array.from({ length: to - from }, (_, i) => from + i);
  const reciprocal = (x) => unary(x, (v) => 1 / v, (_, y) => -y * y);
  const squareRoot = (x) => unary(x, (v) => Math.sqrt(v), (_, y) => 0.5 / y);
  const div = (a, b) => mul(a, reciprocal(b));

  // Of each row the entries at its own index, (N, C) to (N, 1); and the sum of those before it.
  function chosen(x, index, before = false) {
    const out = new Tensor(x.rows, 1);
    const each = (visit) => index.forEach((at, r) => {
      for (let c = before ? 0 : at; c < (before ? at : at + 1); c++) visit(r, r * x.cols + c);
    });
    each((r, i) => { out.data[r] += x.data[i]; });
    return record(out, [x], () => each((r, i) => { x.grad[i] += out.grad[r]; }));
  }

  // Shares of the box, one a bin: a softmax, of which no bin is too thin.
  function shares(raw) {
    const top = range(0, raw.rows).map((r) => [Math.max(...raw.row(r))]);
    const e = exp(sub(raw, Tensor.from(top)));
    return add(LEAST_BIN, mul(1 - LEAST_BIN * BINS, div(e, rowSum(e))));
  }

  // The bin of each value, by the shares along its axis.
  const binOf = (value, share) => Array.from(value.data, (v, r) => {
    let edge = -BOX, bin = 0;
    while (bin < BINS - 1 && v >= (edge += 2 * BOX * share.data[r * BINS + bin])) bin++;
    return bin;
  });

  // Value where `inside` is 1, otherwise where it is 0; both finite.
  const where = (inside, value, otherwise) =>
    add(mul(inside, value), mul(sub(1, inside), otherwise));

  // g(b; θ), or its inverse, and the logarithm of the slope of g there: b (N, 1), θ (N, 3 BINS − 1)
  // with BINS widths, BINS heights and BINS − 1 logarithms of slopes. The identity outside the box.
  function spline(b, theta, inverse) {
    const [widths, heights] = [0, BINS].map((from) =>
      shares(columns(theta, range(from, from + BINS))));
    const inner = exp(mul(LOG_SCALE_BOUND, tanh(columns(theta, range(2 * BINS, 3 * BINS - 1)))));
    const inside = new Tensor(b.rows, 1, b.data.map((v) => (Math.abs(v) <= BOX ? 1 : 0)));
    const at = where(inside, b, 0);
    const bin = binOf(at, inverse ? heights : widths);
    const left = (share) => sub(mul(2 * BOX, chosen(share, bin, true)), BOX);
    const width = mul(2 * BOX, chosen(widths, bin)), height = mul(2 * BOX, chosen(heights, bin));
    // At both ends of the box the slope is 1.
    const slopeAt = (knots) => where(
      Tensor.from(knots.map((k) => [k > 0 && k < BINS ? 1 : 0])),
      chosen(inner, knots.map((k) => Math.min(Math.max(k - 1, 0), BINS - 2))), 1);
    const slope0 = slopeAt(bin), slope1 = slopeAt(bin.map((k) => k + 1));
    const slope = div(height, width), bend = sub(add(slope0, slope1), mul(2, slope));
    let t;
    if (inverse) {
      const rise = div(sub(at, left(heights)), height);
      const p = sub(slope0, mul(rise, bend)), c = mul(slope, rise);
      // The form of the root that does not cancel.
      const argument = add(mul(p, p), mul(4, mul(sub(slope, p), c)));
      const positive = unary(argument, (v) => Math.max(v, 1e-30), (v) => (v > 1e-30 ? 1 : 0));
      t = div(mul(2, c), add(p, squareRoot(positive)));
    } else {
      t = div(sub(at, left(widths)), width);
    }
    const rest = sub(1, t), s = mul(t, rest), bottom = add(slope, mul(bend, s));
    const result = inverse
      ? add(left(widths), mul(width, t))
      : add(left(heights), div(mul(height, add(mul(slope, mul(t, t)), mul(slope0, s))), bottom));
    const top = add(
      add(mul(slope1, mul(t, t)), mul(2, mul(slope, s))), mul(slope0, mul(rest, rest)));
    const ratio = div(slope, bottom), logSlope = log(mul(top, mul(ratio, ratio)));
    return [where(inside, result, b), mul(inside, logSlope)];
  }

  // [a, b] ↦ [a, g(b; θ(a))] with a spline for each number of b.
  class SplineCoupling {
    constructor(size, net) {
      this.size = size;
      this.net = net;
    }

    callAndLadj(u) {
      return this.pass(u, false);
    }

    inverseAndLadj(z) {
      return this.pass(z, true);
    }

    pass(x, inverse) {
      const a = columns(x, range(0, this.size)), theta = this.net(a), B = x.cols - this.size;
      let joined = a, sum = new Tensor(1, 1);
      for (let i = 0; i < B; i++) {
        // The numbers of the net: all first widths, then all second ones, and so on.
        const own = columns(theta, range(0, 3 * BINS - 1).map((k) => k * B + i));
        const [y, logSlope] = spline(columns(x, [this.size + i]), own, inverse);
        joined = concat(joined, y);
        sum = add(sum, logSlope);
      }
      return [joined, sum];
    }
  }

  Object.assign(FlowVAE, { SplineCoupling, SPLINE_NUMBERS: 3 * BINS - 1 });
})((globalThis.FlowVAE = globalThis.FlowVAE || {}));
