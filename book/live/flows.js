// Normalizing flows: z = f(u), log q(z) = log p(u) − log|det ∂f/∂u|. ladj is that logarithm,
// (N, 1), whichever way it was computed.
(function (FlowVAE) {
  "use strict";

  const { Tensor, Conditioner, standardNormal, SplineCoupling, SPLINE_NUMBERS } = FlowVAE;
  const { add, sub, mul, exp, tanh, columns, concat, rowSum } = FlowVAE;

  const LOG_SCALE_BOUND = 2;
  const range = (from, to) => Array.from({ length: to - from }, (_, i) => from + i);

  class ElementwiseAffine {
    constructor(loc, logScale) {
      this.loc = loc;
      this.logScale = logScale;
    }

    callAndLadj(u) {
      return [add(this.loc, mul(exp(this.logScale), u)), rowSum(this.logScale)];
    }

    inverseAndLadj(z) {
      return [mul(sub(z, this.loc), exp(mul(this.logScale, -1))), rowSum(this.logScale)];
    }
  }

  // z[i] = u[order[i]].
  class Permutation {
    constructor(order) {
      this.order = order;
      this.back = order.map((_, i) => order.indexOf(i));
    }

    callAndLadj(u) {
      return [columns(u, this.order), new Tensor(1, 1)];
    }

    inverseAndLadj(z) {
      return [columns(z, this.back), new Tensor(1, 1)];
    }
  }

  // [a, b] ↦ [a, t(a) + exp(s(a)) b]: a has `size` numbers, s is bounded by a tanh.
  class AffineCoupling {
    constructor(size, net) {
      this.size = size;
      this.net = net;
    }

    callAndLadj(u) {
      const [a, b, shift, logScale] = this.parts(u);
      return [concat(a, add(shift, mul(exp(logScale), b))), rowSum(logScale)];
    }

    inverseAndLadj(z) {
      const [a, b, shift, logScale] = this.parts(z);
      return [concat(a, mul(sub(b, shift), exp(mul(logScale, -1)))), rowSum(logScale)];
    }

    parts(x) {
      const a = columns(x, range(0, this.size)), b = columns(x, range(this.size, x.cols));
      const theta = this.net(a);
      const raw = columns(theta, range(b.cols, 2 * b.cols));
      return [a, b, columns(theta, range(0, b.cols)), mul(tanh(raw), LOG_SCALE_BOUND)];
    }
  }

  const COUPLINGS = { affine: AffineCoupling, spline: SplineCoupling };

  class Composition {
    constructor(transforms) {
      this.transforms = transforms;
    }

    callAndLadj(u) {
      return through(this.transforms, (transform, x) => transform.callAndLadj(x), u);
    }

    inverseAndLadj(z) {
      const backwards = [...this.transforms].reverse();
      return through(backwards, (transform, x) => transform.inverseAndLadj(x), z);
    }
  }

  function through(transforms, pass, x) {
    let sum = new Tensor(1, 1);
    for (const transform of transforms) {
      const [y, ladj] = pass(transform, x);
      [x, sum] = [y, add(sum, ladj)];
    }
    return [x, sum];
  }

  // The distribution of f(u) for u from `base`.
  class Flow {
    constructor(base, transform) {
      this.base = base;
      this.transform = transform;
    }

    logProb(z) {
      const [u, ladj] = this.transform.inverseAndLadj(z);
      return sub(this.base.logProb(u), ladj);
    }

    sample(noise) {
      return this.transform.callAndLadj(this.base.sample(noise))[0];
    }

    rsampleAndLogProb(noise) {
      const [u, logProb] = this.base.rsampleAndLogProb(noise);
      const [z, ladj] = this.transform.callAndLadj(u);
      return [z, sub(logProb, ladj)];
    }
  }

  // N(0, I) pushed through couplings, which alternate with permutations, and one affine map.
  class CouplingFlow {
    constructor(features, { context = 0, transforms = 4, hidden = [32], kind = "affine" }, random) {
      this.features = features;
      this.size = Math.floor(features / 2);
      this.coupling = COUPLINGS[kind];
      const out = (kind === "affine" ? 2 : SPLINE_NUMBERS) * (features - this.size);
      const conditioner = () => new Conditioner(this.size, context, hidden, out, random);
      this.nets = range(0, transforms).map(conditioner);
      this.loc = Tensor.parameter(1, features);
      this.logScale = Tensor.parameter(1, features);
      // The order before each coupling, relative to the one before: the halves change places and
      // change back. The last one puts all back.
      const same = range(0, features), swap = [...range(this.size, features), ...range(0, this.size)];
      const back = same.map((i) => swap.indexOf(i));
      this.orders = range(0, transforms + 1).map((i) => {
        if (i === 0 || (i === transforms && i % 2)) return same;
        return i % 2 ? swap : back;
      });
      this.parameters = [this.loc, this.logScale, ...this.nets.flatMap((net) => net.parameters)];
    }

    transform(context) {
      const permutations = this.orders.map((order) => new Permutation(order));
      const couplings = this.nets.map(
        (net, i) => [permutations[i], new this.coupling(this.size, net.forward(context))]);
      const last = new ElementwiseAffine(this.loc, this.logScale);
      return new Composition([...couplings.flat(), permutations.at(-1), last]);
    }

    forward(context) {
      return new Flow(standardNormal(this.features), this.transform(context));
    }
  }

  Object.assign(FlowVAE, {
    ElementwiseAffine, Permutation, AffineCoupling, Composition, Flow, CouplingFlow,
  });
})((globalThis.FlowVAE = globalThis.FlowVAE || {}));
