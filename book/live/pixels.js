// A VampPrior of pictures, whose pseudo-inputs the reader changes pixel by pixel.
(function (FlowVAE) {
  "use strict";

  const { Tensor, Random, Normal, VampPrior, GaussianPosterior, GaussianLikelihood } = FlowVAE;
  const { mean, mlp, trained } = FlowVAE;
  const { element, number, button, colourKey, titledPlane, onDrag, nearest, choice, table, mount } = FlowVAE;

  const SIDE = 8, PIXELS = SIDE * SIDE, HALF = SIDE / 2, LATENT = 2, HIDDEN = [64, 64];
  const COUNT = 8, CODES = 180, STEPS = 61, ACROSS = 4, EXTENT = 8;
  // The middles of the lowest and of the highest of 17 grey levels.
  const PAPER = 0.5 / 17, INK = 16.5 / 17;
  // The one whose absence costs the most.
  const FIRST = 5;

  function modelOf(figure) {
    const fill = trained(figure), random = new Random(0);
    const posterior = fill("posterior",
      new GaussianPosterior(mlp(PIXELS, HIDDEN, 2 * LATENT, random)));
    const prior = fill("prior", new VampPrior(posterior, new Tensor(COUNT, PIXELS)));
    // Trained are the logits of its pixels.
    prior.pseudoInputs.data.forEach((v, i, all) => { all[i] = 1 / (1 + Math.exp(-v)); });
    const [loc, logScale] = [new Tensor(CODES, LATENT), new Tensor(CODES, LATENT)];
    return {
      posterior, prior,
      likelihood: fill("likelihood",
        new GaussianLikelihood(mlp(LATENT, HIDDEN, PIXELS, random), PIXELS)),
      codes: new Normal(...fill("codes", { parameters: [loc, logScale] }).parameters),
    };
  }

  // The pixel at a place of the pad, and its middle.
  const pixelAt = (at) => {
    const [column, row] = [at[0] + HALF, HALF - at[1]].map((v) =>
      Math.max(0, Math.min(SIDE - 1, Math.floor(v))));
    return { column, row, index: SIDE * row + column };
  };
  const middle = ({ column, row }) => [column + 0.5 - HALF, HALF - row - 0.5];

  function pixels(say) {
    const model = modelOf("pixels"), inputs = model.prior.pseudoInputs, learned = inputs.data.slice();
    const state = { chosen: FIRST, seed: 0, samples: "whole", pixel: pixelAt([-0.5, 0.5]) };
    const pad = titledPlane("", "", "The chosen pseudo-input, 8 by 8 pixels. A click or a drag changes "
      + "pixels from paper to ink or back; arrow keys move from pixel to pixel, and space changes one.",
      () => draw());
    const map = titledPlane("z", "the prior: its components",
      "Map of the components, with the prior and the codes of digits. A click, or the arrow keys, choose "
      + "the component that is nearest.", () => draw());
    const sheet = titledPlane("", "samples", "Samples, decoded.", () => draw(), { keys: false });
    pad.extent = HALF;
    // From pixel to pixel.
    pad.stride = 1 / HALF;
    map.extent = EXTENT;
    const grid = map.grid(STEPS);
    const told = table(`nats, mean of ${CODES} digits`, ["log p(z) of their codes"],
      ["as trained", "now", "the ELBO gains"]);

    const logProb = () => mean(model.prior.forward().logProb(state.codes)).data[0];

    // New noise, and what the trained prior makes of the codes.
    function renew() {
      const random = new Random(state.seed), normals = (rows) => random.normals(rows, LATENT);
      state.codes = model.codes.sample(normals(CODES));
      state.noise = { samples: normals(ACROSS ** 2), choice: random.uniforms(ACROSS ** 2) };
      const now = inputs.data.slice();
      inputs.data.set(learned);
      state.asTrained = logProb();
      inputs.data.set(now);
    }

    function update() {
      const p = model.prior.forward(), { samples, choice: uniform } = state.noise;
      state.locs = p.components.loc;
      state.own = p.component(state.chosen);
      const z = state.samples === "whole" ? p.sample(samples, uniform) : state.own.sample(samples);
      state.drawn = { z, x: model.likelihood.forward(z).loc };
      state.heights = { prior: p.logProb(grid).data, own: state.own.logProb(grid).data };
      state.now = logProb();
      // Nothing else of the bound sees the prior.
      [state.asTrained, state.now, state.now - state.asTrained].forEach((value, i) =>
        told.fill(i, [number(value)]));
      pad.at = middle(state.pixel);
      pad.heading.textContent = `pseudo-input ${state.chosen + 1} of ${COUNT}`;
      draw();
    }

    function tell(quietly) {
      const [a, b] = state.own.loc.data, away = Math.abs(state.now - state.asTrained) > 1e-9;
      say(`Pseudo-input ${state.chosen + 1} of ${COUNT} has its component at z = (${number(a)}, `
        + `${number(b)}). Log p(z) of the codes is ${number(state.now)} nats`
        + `${away ? `, ${number(state.asTrained)} as trained` : ""}.`, quietly);
    }

    function draw() {
      if (!state.heights) return;
      pad.clear();
      pad.picture(inputs.row(state.chosen), [0, 0], pad.width);
      pad.ruled(SIDE);
      const size = pad.width / SIDE, { column, row } = state.pixel;
      pad.frame([column * size, row * size], size, { colour: "prior", width: 2.5 });
      map.clear();
      map.axes();
      map.density(state.heights.prior, EXTENT, "prior");
      map.points(state.codes, "posterior", { size: 1.5, alpha: 0.6 });
      if (state.samples === "one") map.points(state.drawn.z, "likelihood", { size: 2 });
      map.outline(state.heights.own, EXTENT, 0.9, { width: 2 });
      map.points(state.locs, "prior", { size: 4, mark: "ring" });
      map.spot(state.own.loc.data, "prior");
      map.names();
      sheet.clear();
      const cell = sheet.width / ACROSS, inner = 0.84 * cell;
      for (let n = 0; n < state.drawn.x.rows; n++) {
        const at = [n % ACROSS, Math.floor(n / ACROSS)].map((i) => i * cell + 0.08 * cell);
        sheet.tile(state.drawn.x.row(n), at, inner);
      }
    }

    const show = (dragged) => {
      update();
      tell(dragged);
    };
    onDrag(pad, (x, y, kind) => {
      const row = inputs.row(state.chosen), { index } = (state.pixel = pixelAt([x, y]));
      // Drags go on as they began: with ink or with paper.
      if (kind === "press") state.pen = row[index] > 0.5 ? PAPER : INK;
      if (kind !== "key") row[index] = state.pen;
    }, (dragged, byKey) => {
      show(dragged);
      const { row, column, index } = state.pixel;
      if (!byKey) return;
      say(`Row ${row + 1}, column ${column + 1}: ${inputs.row(state.chosen)[index] > 0.5 ? "ink" : "paper"}.`);
    });
    onDrag(map, (x, y) => { state.chosen = nearest(state.locs, x, y); }, show);

    const change = (changes) => {
      Object.assign(state, changes);
      renew();
      show();
    };
    const samples = choice("samples: ",
      { whole: "of the whole prior", one: "of the chosen component" },
      (value) => change({ samples: value }));
    const bar = element("div", { class: "lab-bar", role: "group", "aria-label": "Pixels of pseudo-inputs" },
      button("Next pseudo-input", () => change({ chosen: (state.chosen + 1) % COUNT })),
      button("Empty its pixels", () => {
        inputs.row(state.chosen).fill(PAPER);
        change({});
      }),
      button("Restore its pixels", () => {
        const from = PIXELS * state.chosen;
        inputs.row(state.chosen).set(learned.slice(from, from + PIXELS));
        change({});
      }),
      samples.node,
      button("New noise", () => change({ seed: state.seed + 1 })),
      button("Reset", () => {
        inputs.data.set(learned);
        samples.select.value = "whole";
        change({ chosen: FIRST, seed: 0, samples: "whole", pixel: pixelAt([-0.5, 0.5]) });
      }));
    change({});
    const key = colourKey(
      "Click the pixels of the chosen pseudo-input, or drag over them. On the map: the prior in blue, the "
      + "codes of 180 digits in orange, and a ring for each component, the chosen one filled; the thick "
      + "line holds nine tenths of it. Samples: what the decoder makes of draws of the prior.");
    pad.node.classList.add("live-wide");
    const planes = element("div", { class: "live-planes live-picture" }, pad.node, map.node, sheet.node);
    return {
      nodes: [bar, planes, key, told.node], draw, update, state, model, planes: [pad, map, sheet],
    };
  }

  mount("pixels", pixels);
})((globalThis.FlowVAE = globalThis.FlowVAE || {}));
