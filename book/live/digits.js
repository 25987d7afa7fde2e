// A drawn digit is encoded: its posterior on the map, what it decodes to, and the bound's two terms.
(function (FlowVAE) {
  "use strict";

  const { Tensor, Random, Normal, GaussianPosterior, GaussianLikelihood } = FlowVAE;
  const { LOG_SCALE_BOUNDS, standardNormal } = FlowVAE;
  const { add, sub, mul, exp, mean, mlp, trained } = FlowVAE;
  const { element, number, button, colourKey, titledPlane, choice, table, oncePerFrame, mount } = FlowVAE;

  const SIDE = 8, PIXELS = SIDE * SIDE, LATENT = 2, HIDDEN = [64, 64], DRAWS = 100, SHOWN = 6;
  const TILES = 13, EXTENT = 3.25, PROBE = [-1.5, 1], HALF = SIDE / 2;
  // Strokes of a pen on a square from −4 to 4.
  const EXAMPLES = [
    [[[-1.4, 2.6], [0.4, 3], [1.2, 2.2], [0.9, 1], [-0.2, 0.4], [1.1, -0.6], [1.3, -1.8],
      [0.4, -2.8], [-1.4, -2.6]]],
    [[[0, 3], [-1.3, 1.8], [-1.5, -0.5], [-0.9, -2.4], [0.3, -3], [1.4, -2], [1.5, 0.4],
      [1, 2.2], [0, 3]]],
    [[[-1.4, 2.8], [1.5, 2.8], [0.6, 0.4], [-0.4, -3]], [[-1, 0], [1.4, 0]]],
    [[[0.3, 3], [-1.5, -0.3], [1.8, -0.3]], [[0.7, 0.8], [0.3, -3]]],
    [[[0.8, 3], [-0.7, 1.4], [-1.4, -1], [-0.6, -2.8], [1, -2.7], [1.2, -1.2], [0, -0.5],
      [-1.2, -1.2]]],
  ];

  // Ink is from 0 to 1; the model saw 17 grey levels with noise up to the next one.
  const seen = (ink) => new Tensor(1, PIXELS, Float64Array.from(ink, (v) => (16 * v + 0.5) / 17));

  // A round, soft pen at (x, y), which adds ink or takes it away.
  function dab(ink, x, y, erase = false) {
    for (let i = 0; i < PIXELS; i++) {
      const [a, b] = [(i % SIDE) + 0.5 - HALF, HALF - Math.floor(i / SIDE) - 0.5];
      const much = Math.min(1, Math.max(0, 1.3 - Math.hypot(a - x, b - y)));
      ink[i] = erase ? Math.min(ink[i], 1 - much) : Math.max(ink[i], much);
    }
  }

  // From one place to the next, without gaps.
  function stroke(ink, [a, b], [c, d], erase) {
    const steps = Math.max(1, Math.ceil(Math.hypot(c - a, d - b) / 0.25));
    for (let i = 0; i <= steps; i++) {
      dab(ink, a + ((c - a) * i) / steps, b + ((d - b) * i) / steps, erase);
    }
  }

  function example(which) {
    const ink = new Float64Array(PIXELS);
    for (const line of EXAMPLES[which]) {
      line.slice(1).forEach((at, i) => stroke(ink, line[i], at));
    }
    return ink;
  }

  function modelOf(figure) {
    const fill = trained(figure), random = new Random(0);
    const encoder = mlp(PIXELS, HIDDEN, 2 * LATENT, random);
    const posterior = fill("posterior", new GaussianPosterior(encoder));
    posterior.logScaleBounds = LOG_SCALE_BOUNDS;
    return {
      posterior,
      likelihood: fill("likelihood",
        new GaussianLikelihood(mlp(LATENT, HIDDEN, PIXELS, random), PIXELS)),
    };
  }

  // Both terms of the bound of one picture, averages over draws with this noise.
  function terms({ posterior, likelihood }, x, noise) {
    const { loc, logScale } = posterior.forward(x), q = new Normal(loc, logScale);
    const z = add(loc, mul(exp(logScale), noise));
    const kl = mean(sub(q.logProb(z), standardNormal(LATENT).logProb(z))).data[0];
    // Of x given each z: the Gaussian is symmetric in x and its mean.
    const decoded = likelihood.forward(z), p = new Normal(x, decoded.logScale);
    return { reconstruction: mean(p.logProb(decoded.loc)).data[0], kl };
  }

  function digits(say) {
    const model = modelOf("digits"), decode = (z) => model.likelihood.forward(z).loc;
    const state = { ink: example(0), which: 0, seed: 0, erase: false, probe: [...PROBE], last: null };
    const later = oncePerFrame(() => {
      update();
      if (state.last) tell(true);
    });
    const pad = titledPlane("", "draw a digit",
      "A pad of 8 by 8 pixels. Draw with the mouse or a finger; with the keyboard, arrow keys move the "
      + "pen, and space paints.", () => draw());
    const map = titledPlane("z", "its place on the map",
      "Map of the latent plane. Point at a place, or move there with the arrow keys, to decode it.",
      () => draw());
    const sheet = titledPlane("", "what is decoded", "Decoded pictures.", () => draw(), { keys: false });
    pad.extent = HALF;
    pad.stride = 1 / SIDE;
    map.extent = EXTENT;
    const tiles = map.grid(TILES), mosaic = decode(tiles);

    const told = table("nats", ["reconstruction", "KL(q ‖ p(z))", "ELBO"], ["this picture"]);

    function update() {
      const x = seen(state.ink), noise = new Random(state.seed).normals(DRAWS, LATENT);
      const { loc, logScale } = model.posterior.forward(x);
      state.z = add(loc, mul(exp(logScale), noise));
      state.q = { loc: [...loc.data], scale: [...logScale.data].map(Math.exp) };
      state.terms = terms(model, x, noise);
      state.decoded = decode(Tensor.from([state.q.loc]));
      state.samples = decode(state.z.part(0, SHOWN));
      state.probed = decode(Tensor.from([state.probe]));
      const { reconstruction, kl } = state.terms;
      told.fill(0, [reconstruction, kl, reconstruction - kl].map((value) => number(value, 1)));
      sheet.canvas.setAttribute("aria-label", "Decoded pictures: at the posterior's mean, at the pointer, "
        + `and at ${SHOWN} draws of the posterior.`);
      draw();
    }

    function tell(quietly) {
      const [[a, b], [c, d]] = [state.q.loc, state.q.scale].map((pair) => pair.map((v) => number(v)));
      const { reconstruction, kl } = state.terms;
      say(`Encoded at z = (${a}, ${b}), with scales ${c} and ${d}. Reconstruction ${number(reconstruction, 1)}`
        + ` nats, KL ${number(kl, 1)}, ELBO ${number(reconstruction - kl, 1)}.`, quietly);
    }

    function drawMap() {
      map.clear();
      const size = map.width / TILES;
      map.still(() => {
        for (let n = 0; n < tiles.rows; n++) {
          const [x, y] = map.place(...tiles.row(n));
          map.picture(mosaic.row(n), [x - size / 2, y - size / 2], size, { alpha: 0.4 });
        }
      });
      map.axes();
      const { loc, scale } = state.q;
      const ellipse = (width) => Array.from({ length: 61 }, (_, i) => {
        const angle = (2 * Math.PI * i) / 60;
        return map.place(loc[0] + width * scale[0] * Math.cos(angle),
          loc[1] + width * scale[1] * Math.sin(angle));
      });
      map.points(state.z, "posterior", { size: 1.4, alpha: 0.7 });
      map.paths([ellipse(2.146)], { colour: "posterior", width: 2.5 });
      map.points(Tensor.from([loc]), "posterior", { size: 3 });
      map.spot(state.probe, "likelihood");
      map.names();
      map.at = [...state.probe];
    }

    function drawSheet() {
      sheet.clear();
      const column = sheet.width / 3, rise = sheet.height / 3, size = Math.min(0.74 * column, rise - 22);
      const show = (values, i, name, colour) => {
        const left = (i % 3) * column + (column - size) / 2, top = Math.floor(i / 3) * rise + 18;
        sheet.tile(values, [left, top], size);
        if (name) sheet.text(name, left + size / 2, top - 9, { align: "center", colour });
      };
      show(state.ink, 0, "yours", "data");
      show(state.decoded.data, 1, "mean", "posterior");
      show(state.probed.data, 2, "pointer", "likelihood");
      for (let n = 0; n < SHOWN; n++) show(state.samples.row(n), 3 + n, n ? "" : "draws", "posterior");
    }

    function draw() {
      if (!state.q) return;
      pad.clear();
      pad.ruled(SIDE);
      pad.picture(state.ink, [0, 0], pad.width);
      if (state.pen) pad.points(Tensor.from([state.pen]), "likelihood", { size: 7, mark: "ring" });
      drawMap();
      drawSheet();
    }

    const change = (changes = {}) => {
      Object.assign(state, changes);
      update();
      tell();
    };
    pad.listen((x, y, kind) => {
      const at = [x, y].map((v) => Math.max(-HALF, Math.min(HALF, v)));
      state.pen = kind === "leave" ? null : at;
      if (kind === "press") {
        stroke(state.ink, state.last || at, at, state.erase);
        state.last = at;
        later();
      } else if (kind === "release") {
        state.last = null;
        change();
      } else {
        draw();
        if (kind === "key") say(`Pen in row ${row(at)}, column ${column(at)}.`);
      }
    });
    const column = ([x]) => Math.min(SIDE, Math.floor(x + HALF) + 1);
    const row = ([, y]) => Math.min(SIDE, Math.floor(HALF - y) + 1);
    map.listen((x, y, kind) => {
      if (kind === "release" || kind === "leave") return;
      state.probe = [x, y].map((v) => Math.max(-EXTENT, Math.min(EXTENT, v)));
      later();
      if (kind === "key") {
        update();
        say(`Decoded at z = (${state.probe.map((v) => number(v)).join(", ")}).`);
      }
    });
    const pens = choice("pen: ", { ink: "ink", rubber: "rubber" },
      (value) => { state.erase = value === "rubber"; });
    const bar = element("div", { class: "lab-bar", role: "group", "aria-label": "The digit" },
      button("Clear", () => change({ ink: new Float64Array(PIXELS) })), pens.node,
      button("Next example", () => {
        const which = (state.which + 1) % EXAMPLES.length;
        change({ which, ink: example(which) });
      }),
      button("New noise", () => change({ seed: state.seed + 1 })),
      button("Reset", () => {
        pens.select.value = "ink";
        change({ ink: example(0), which: 0, seed: 0, erase: false, probe: [...PROBE] });
      }));
    const key = colourKey(
      "Orange on the map: the posterior's mean, draws, and the ellipse that holds nine tenths of it. Behind "
      + "it, what the decoder makes of each place. Green: the place that is decoded.");
    update();
    tell();
    pad.node.classList.add("live-wide");
    const planes = element("div", { class: "live-planes live-picture" }, pad.node, map.node, sheet.node);
    return {
      nodes: [bar, planes, key, told.node], draw, update, state, model, terms, seen, example,
      planes: [pad, map, sheet],
    };
  }

  mount("digits", digits);
})((globalThis.FlowVAE = globalThis.FlowVAE || {}));
