// A VampPrior whose pseudo-inputs the reader moves: each is a component, wherever the encoder puts it.
(function (FlowVAE) {
  "use strict";

  const { Tensor, Random, VAE, VampPrior, GaussianPosterior, GaussianLikelihood } = FlowVAE;
  const { DATA_SETS, mlp, mean, trained } = FlowVAE;
  const { element, number, button, colourKey, titledPlane, onDrag, nearest, choice, table, mount } = FlowVAE;

  const LATENT = 2, HIDDEN = [32, 32], COUNT = 16;
  const SHOWN = 300, STEPS = 61;
  // The only one of its group.
  const FIRST = 5;

  function modelOf(figure) {
    const fill = trained(figure), random = new Random(0);
    const posterior = fill("posterior", new GaussianPosterior(mlp(2, HIDDEN, 2 * LATENT, random)));
    const likelihood = fill("likelihood",
      new GaussianLikelihood(mlp(LATENT, HIDDEN, 2, random), 2));
    const prior = fill("prior", new VampPrior(posterior, new Tensor(COUNT, 2)));
    return new VAE(prior, posterior, likelihood);
  }

  function pseudo(say) {
    const vae = modelOf("pseudo"), inputs = vae.prior.pseudoInputs, learned = inputs.data.slice();
    const state = { chosen: FIRST, seed: 0, samples: "whole" };
    const points = titledPlane("x", "data plane: pseudo-inputs",
      "Data plane. Drag a pseudo-input, or move the chosen one with the arrow keys.", () => draw());
    const latents = titledPlane("z", "latent plane: their components",
      "Latent plane: the prior, the codes of the data and the chosen component.", () => draw(),
      { keys: false });
    const told = table("nats, mean of the data", ["log p(z) of the data's codes", "ELBO"],
      ["as trained", "now"]);

    // New data and noise, and what the trained prior makes of them.
    function renew() {
      const random = new Random(state.seed), normals = () => random.normals(SHOWN, LATENT);
      state.x = DATA_SETS.rings(SHOWN, random);
      state.noise = { codes: normals(), samples: normals(), x: normals(), choice: random.uniforms(SHOWN) };
      state.codes = vae.posterior.forward(state.x).sample(state.noise.codes);
      const spread = Math.max(...state.codes.data.map(Math.abs));
      latents.extent = 1.15 * spread;
      const now = inputs.data.slice();
      inputs.data.set(learned);
      state.asTrained = measure();
      inputs.data.set(now);
    }

    // The mean log-density of the codes under the prior, and the mean ELBO.
    function measure() {
      const { reconstruction, kl } = vae.elbo(state.x, state.noise.codes);
      const code = mean(vae.prior.forward().logProb(state.codes)).data[0];
      return [code, mean(reconstruction).data[0] - mean(kl).data[0]];
    }

    function update() {
      const p = vae.prior.forward(), { samples, choice: uniform } = state.noise;
      state.own = p.component(state.chosen);
      const z = state.samples === "whole" ? p.sample(samples, uniform) : state.own.sample(samples);
      state.drawn = { z, x: vae.likelihood.forward(z).sample(state.noise.x) };
      const grid = latents.grid(STEPS);
      state.heights = { prior: p.logProb(grid).data, own: state.own.logProb(grid).data };
      state.now = measure();
      [state.asTrained, state.now].forEach((values, r) =>
        told.fill(r, values.map((value) => number(value))));
      points.at = [...inputs.row(state.chosen)];
      draw();
    }

    function tell(quietly) {
      const [a, b] = inputs.row(state.chosen), [c, d] = state.own.loc.data;
      const away = Math.max(...inputs.data.map((v, i) => Math.abs(v - learned[i]))) > 1e-9;
      const trainedTo = away ? `, ${number(state.asTrained[1])} as trained` : "";
      say(`Pseudo-input ${state.chosen + 1} of ${COUNT} is at x = (${number(a, 1)}, ${number(b, 1)}), and `
        + `its component at z = (${number(c, 1)}, ${number(d, 1)}). ELBO ${number(state.now[1])} nats`
        + `${trainedTo}.`, quietly);
    }

    function draw() {
      if (!state.heights) return;
      points.clear();
      points.axes();
      points.points(state.x, "data", { size: 1.5, alpha: 0.4 });
      points.points(state.drawn.x, "likelihood", { size: 1.6, alpha: 0.7 });
      points.points(inputs, "paper", { size: 5.6, alpha: 0.8 });
      points.points(inputs, "prior", { size: 5, mark: "ring" });
      points.spot(inputs.row(state.chosen), "prior");
      points.names();
      latents.clear();
      latents.axes();
      latents.density(state.heights.prior, latents.extent, "prior");
      latents.points(state.codes, "posterior", { size: 1.5, alpha: 0.6 });
      if (state.samples === "one") {
        latents.points(state.drawn.z, "likelihood", { size: 1.5, alpha: 0.5 });
      }
      latents.outline(state.heights.own, latents.extent, 0.9, { width: 2 });
      latents.spot(state.own.loc.data, "prior");
      latents.names();
    }

    const show = (dragged) => {
      update();
      tell(dragged);
    };
    onDrag(points, (x, y, kind) => {
      if (kind === "press") state.chosen = nearest(inputs, x, y);
      inputs.row(state.chosen).set([x, y]);
    }, show);

    const change = (changes) => {
      Object.assign(state, changes);
      renew();
      show();
    };
    const samples = choice("samples: ",
      { whole: "of the whole prior", one: "of the chosen component" },
      (value) => change({ samples: value }));
    const bar = element("div", { class: "lab-bar", role: "group", "aria-label": "Pseudo-inputs" },
      button("Next pseudo-input", () => change({ chosen: (state.chosen + 1) % COUNT })),
      button("Put this pseudo-input back", () => {
        inputs.row(state.chosen).set(learned.slice(2 * state.chosen, 2 * state.chosen + 2));
        change({});
      }),
      samples.node,
      button("New data and noise", () => change({ seed: state.seed + 1 })),
      button("Reset", () => {
        inputs.data.set(learned);
        samples.select.value = "whole";
        change({ chosen: FIRST, seed: 0, samples: "whole" });
      }));
    change({});
    const key = colourKey(
      "Grey: data. Blue rings: pseudo-inputs, the chosen one filled. Green: samples. On the right the "
      + "prior is blue, the codes of the data are orange, and the thick line holds nine tenths of the "
      + "chosen component.");
    const row = element("div", { class: "live-planes live-picture" }, points.node, latents.node);
    return { nodes: [bar, row, key, told.node], draw, state, update, vae, planes: [points, latents] };
  }

  mount("pseudo", pseudo);
})((globalThis.FlowVAE = globalThis.FlowVAE || {}));
