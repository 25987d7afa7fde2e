// Distributions of vectors. Noise is always given, so that two models can be drawn with the same.
(function (FlowVAE) {
  "use strict";

  const { LOG_2_PI, Tensor, add, sub, mul, exp, square, rowSum, gaussianMixtureLogProb } = FlowVAE;

  // Σ_d −½ noise_d² − ½ log 2π: the density of N(0, I), (N, D) to (N, 1).
  const standardLogProb = (noise) => rowSum(mul(add(square(noise), LOG_2_PI), -0.5));

  // Independent Gaussians, one a dimension: loc and logScale (N, D), or (1, D) for all examples.
  class Normal {
    constructor(loc, logScale) {
      this.loc = loc;
      this.logScale = logScale;
    }

    logProb(z) {
      const noise = mul(sub(z, this.loc), exp(mul(this.logScale, -1)));
      return sub(standardLogProb(noise), rowSum(this.logScale));
    }

    sample(noise) {
      return add(this.loc, mul(exp(this.logScale), noise));
    }

    rsampleAndLogProb(noise) {
      return [this.sample(noise), sub(standardLogProb(noise), rowSum(this.logScale))];
    }
  }

  // The mixture of the K rows of a `Normal`, with log-weights (1, K).
  class Mixture {
    constructor(components, logits) {
      this.components = components;
      this.logits = logits;
    }

    logProb(z) {
      const { loc, logScale } = this.components;
      return gaussianMixtureLogProb(z, loc, logScale, this.logits);
    }

    component(k) {
      const { loc, logScale } = this.components;
      return new Normal(loc.rowsAt([k]), logScale.rowsAt([k]));
    }

    // Noise (N, D) for the points, uniform numbers (N, 1) for the choice of a component.
    sample(noise, uniform) {
      const top = Math.max(...this.logits.data);
      let total = 0;
      const ends = Array.from(this.logits.data, (logit) => (total += Math.exp(logit - top)));
      const last = ends.length - 1;
      const chosen = Array.from(uniform.data, (u) => {
        const k = ends.findIndex((end) => u * total < end);
        return k < 0 ? last : k;
      });
      const { loc, logScale } = this.components;
      return new Normal(loc.rowsAt(chosen), logScale.rowsAt(chosen)).sample(noise);
    }
  }

  const standardNormal = (features) => new Normal(new Tensor(1, features), new Tensor(1, features));

  Object.assign(FlowVAE, { Normal, Mixture, standardNormal });
})((globalThis.FlowVAE = globalThis.FlowVAE || {}));
