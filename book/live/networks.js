// Perceptrons. A module has `forward`, and `parameters` in the order in which PyTorch lists them.
(function (FlowVAE) {
  "use strict";

  const { Tensor, add, linear, silu, unary } = FlowVAE;

  // Starts as PyTorch's does: uniform within ±1 / √inputs.
  class Linear {
    constructor(inFeatures, outFeatures, random, bias = true) {
      const bound = 1 / Math.sqrt(inFeatures);
      const draw = (rows, cols) =>
        Tensor.parameter(rows, cols, Float64Array.from(
          { length: rows * cols }, () => bound * (2 * random.uniform() - 1)));
      this.weight = draw(outFeatures, inFeatures);
      this.bias = bias ? draw(1, outFeatures) : null;
      this.parameters = bias ? [this.weight, this.bias] : [this.weight];
    }

    forward(x) {
      return linear(x, this.weight, this.bias);
    }
  }

  class MLP {
    constructor(inFeatures, hidden, outFeatures, random) {
      const widths = [inFeatures, ...hidden, outFeatures];
      this.layers = widths.slice(1).map((width, i) => new Linear(widths[i], width, random));
      this.parameters = this.layers.flatMap((layer) => layer.parameters);
    }

    forward(x) {
      return this.layers.reduce((h, layer, i) => layer.forward(i ? silu(h) : h), x);
    }
  }

  const mlp = (inFeatures, hidden, outFeatures, random) =>
    new MLP(inFeatures, hidden, outFeatures, random);

  // Of a posterior's log σ under a VampPrior.
  const LOG_SCALE_BOUNDS = [-3, 1];

  // Keeps x within the bounds, smoothly: t / (1 + t⁸)^⅛ with t the distance to their middle.
  function softClamp(x, [low, high]) {
    const middle = (low + high) / 2, half = (high - low) / 2;
    const inner = (v) => {
      const t = (v - middle) / half;
      return Math.abs(t) <= 1 ? [t, t ** 8] : [Math.sign(t), t ** -8];
    };
    return unary(
      x,
      (v) => {
        const [hard, power] = inner(v);
        return middle + half * hard * (1 + power) ** -0.125;
      },
      (v) => {
        const t = Math.abs((v - middle) / half);
        return t <= 1 ? (1 + t ** 8) ** -1.125 : t ** -9 * (1 + t ** -8) ** -1.125;
      },
    );
  }

  // The network of a coupling. Its last layer starts at zero, the coupling as the identity.
  class Conditioner {
    constructor(features, context, hidden, outFeatures, random) {
      const [first, ...rest] = hidden;
      this.ofU = new Linear(features, first, random);
      this.ofContext = context ? new Linear(context, first, random, false) : null;
      this.body = mlp(first, rest, outFeatures, random);
      this.body.parameters.slice(-2).forEach((parameter) => parameter.data.fill(0));
      this.parameters = [this.ofU, this.ofContext, this.body].flatMap((m) => (m ? m.parameters : []));
    }

    // The network of one part of u alone, for this context.
    forward(context) {
      const { weight, bias } = this.ofU;
      // One row for all points, if the context has one: added before the points are many.
      const shift = this.ofContext ? add(this.ofContext.forward(context), bias) : bias;
      return (a) => this.body.forward(silu(linear(a, weight, shift)));
    }
  }

  Object.assign(FlowVAE, { Linear, mlp, LOG_SCALE_BOUNDS, softClamp, Conditioner });
})((globalThis.FlowVAE = globalThis.FlowVAE || {}));
