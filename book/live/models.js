// The lab's models by name: points of the plane, two latent numbers, networks 2–32–32–4 and 2–32–32–2.
(function (FlowVAE) {
  "use strict";

  const { Random, VAE, StandardNormal, GaussianMixture, VampPrior, CouplingFlow } = FlowVAE;
  const { GaussianPosterior, FlowPosterior, GaussianLikelihood, mlp, pseudoInputsFrom } = FlowVAE;

  const LATENT = 2, HIDDEN = [32, 32];

  const PRIORS = {
    gaussian: () => new StandardNormal(LATENT),
    mixture: ({ k, random }) => new GaussianMixture(LATENT, k, random),
    vampprior: ({ k, random, posterior, train }) =>
      new VampPrior(posterior, pseudoInputsFrom(train, k, random)),
    flow: ({ random }) => new CouplingFlow(LATENT, { transforms: 6 }, random),
    spline: ({ random }) => new CouplingFlow(LATENT, { transforms: 4, kind: "spline" }, random),
  };

  const POSTERIORS = {
    gaussian: (net) => new GaussianPosterior(net),
    flow: (net, random) => new FlowPosterior(
      net, new CouplingFlow(LATENT, { context: LATENT, transforms: 4 }, random)),
  };

  // Models of one seed start with the same encoder and decoder, whatever the prior.
  function build({ prior, posterior, k }, train, seed) {
    const random = new Random(seed);
    const encoder = mlp(train.cols, HIDDEN, 2 * LATENT, random);
    const likelihood = new GaussianLikelihood(mlp(LATENT, HIDDEN, train.cols, random), train.cols);
    const q = POSTERIORS[posterior](encoder, random);
    return new VAE(PRIORS[prior]({ k, random, posterior: q, train }), q, likelihood);
  }

  Object.assign(FlowVAE, { PRIORS, POSTERIORS, build });
})((globalThis.FlowVAE = globalThis.FlowVAE || {}));
