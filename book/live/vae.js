// A VAE is three modules, each of which returns a distribution: prior, posterior, likelihood.
(function (FlowVAE) {
  "use strict";

  const { Tensor, Normal, Mixture, Flow, standardNormal, softClamp, LOG_SCALE_BOUNDS } = FlowVAE;
  const { add, sub, mul, log, softplus, columns, mean } = FlowVAE;

  class StandardNormal {
    constructor(features) {
      this.distribution = standardNormal(features);
      this.parameters = [];
    }

    forward() {
      return this.distribution;
    }
  }

  class GaussianMixture {
    constructor(features, components, random) {
      this.loc = Tensor.parameter(components, features, random.normals(components, features).data);
      this.logScale = Tensor.parameter(components, features);
      this.logits = Tensor.parameter(1, components);
      this.parameters = [this.loc, this.logScale, this.logits];
    }

    forward() {
      return new Mixture(new Normal(this.loc, this.logScale), this.logits);
    }
  }

  // p(z) = Σₖ q(z | x̃ₖ) / K: the pseudo-inputs (K, X) are learned, the posterior is the VAE's own.
  // Its log-scales are bounded: far from all pseudo-inputs they could run away.
  class VampPrior {
    constructor(posterior, pseudoInputs) {
      this.posterior = posterior;
      posterior.logScaleBounds = LOG_SCALE_BOUNDS;
      const { rows, cols, data } = pseudoInputs;
      this.pseudoInputs = Tensor.parameter(rows, cols, data.slice());
      this.logits = new Tensor(1, rows);
      this.parameters = [this.pseudoInputs];
    }

    forward() {
      return new Mixture(this.posterior.forward(this.pseudoInputs), this.logits);
    }
  }

  // K examples of x, drawn at random, with a little noise.
  function pseudoInputsFrom(x, components, random, noise = 0.05) {
    const chosen = x.rowsAt(random.choose(components, x.rows));
    return add(chosen, mul(random.normals(components, x.cols), noise));
  }

  // N(μ(x), diag σ(x)²): the network gives D means, then D log-scales.
  class GaussianPosterior {
    constructor(net) {
      this.net = net;
      this.logScaleBounds = null;
      this.parameters = net.parameters;
    }

    forward(x) {
      const output = this.net.forward(x), indices = [...Array(output.cols).keys()];
      const loc = columns(output, indices.slice(0, output.cols / 2));
      const logScale = columns(output, indices.slice(output.cols / 2));
      const bounds = this.logScaleBounds;
      return new Normal(loc, bounds ? softClamp(logScale, bounds) : logScale);
    }
  }

  // That Gaussian bent by a flow that is told its mean.
  class FlowPosterior {
    constructor(net, flow) {
      this.gaussian = new GaussianPosterior(net);
      this.flow = flow;
      this.parameters = [...net.parameters, ...flow.parameters];
    }

    forward(x) {
      const base = this.gaussian.forward(x);
      return new Flow(base, this.flow.transform(base.loc));
    }
  }

  // N(decoder(z), diag s²): one learned scale s a feature, with a floor.
  class GaussianLikelihood {
    constructor(net, features, minScale = 0.01) {
      this.net = net;
      this.minScale = minScale;
      this.rawScale = Tensor.parameter(1, features, new Float64Array(features).fill(-1));
      this.parameters = [this.rawScale, ...net.parameters];
    }

    forward(z) {
      return new Normal(this.net.forward(z), log(add(softplus(this.rawScale), this.minScale)));
    }
  }

  // The same numbers, through which no gradient passes.
  const held = ({ rows, cols, data }) => new Tensor(rows, cols, data);

  class VAE {
    constructor(prior, posterior, likelihood) {
      this.prior = prior;
      this.posterior = posterior;
      this.likelihood = likelihood;
      this.parameters = [prior, posterior, likelihood].flatMap((part) => part.parameters);
    }

    // Both terms of the ELBO with one sample an example, (N, 1) each, in nats.
    elbo(x, noise) {
      const [z, logQ] = this.posterior.forward(x).rsampleAndLogProb(noise);
      const kl = sub(logQ, this.prior.forward().logProb(z));
      return { reconstruction: this.likelihood.forward(z).logProb(x), kl };
    }

    // Minus the ELBO with its KL term weighted by beta, averaged: (1, 1). The gradient is the path
    // gradient: the score of q, whose mean is zero, is left out.
    loss(x, noise, beta = 1) {
      const q = this.posterior.forward(x);
      const [z, logQ] = q.rsampleAndLogProb(noise);
      const score = q.logProb(held(z));
      const withoutScore = add(logQ, sub(held(score), score));
      const kl = sub(withoutScore, this.prior.forward().logProb(z));
      return mean(sub(mul(kl, beta), this.likelihood.forward(z).logProb(x)));
    }
  }

  Object.assign(FlowVAE, {
    StandardNormal, GaussianMixture, VampPrior, pseudoInputsFrom,
    GaussianPosterior, FlowPosterior, GaussianLikelihood, VAE,
  });
})((globalThis.FlowVAE = globalThis.FlowVAE || {}));
