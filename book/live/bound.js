// One latent number, two data numbers: log p(x) = ELBO + KL for any Gaussian, each term by a sum.
(function (FlowVAE) {
  "use strict";

  const { LOG_2_PI, Random, element, number, button, colourKey, titledPlane, onDrag } = FlowVAE;
  const { slider, table, mount } = FlowVAE;

  // The model of section 1.1: z ~ N(0, 1), and x scattered around a point of the curve.
  const THETA = 2, NOISE = 0.3;
  const curve = (z) => [Math.sin(THETA * z), z];
  const logNormal = (value, loc, scale) =>
    -0.5 * ((value - loc) / scale) ** 2 - Math.log(scale) - 0.5 * LOG_2_PI;

  // So wide and so fine that the sums below are the integrals to ten digits.
  const STEPS = 801, END = 12, STEP = (2 * END) / (STEPS - 1);
  const GRID = Float64Array.from({ length: STEPS }, (_, i) => -END + i * STEP);
  const REACH = 2.5, NARROW = 0.05, WIDE = 1.5;
  // Shown of the axis of z, and the largest density; the lower end of the bar, in nats.
  const EXTENT = 3, TALLEST = 2.4, BOTTOM = -12, TICKS = [-2, 0, 2];
  const OPENING = { x: [0.1, 0.8], mean: 0.2, scale: 0.6, seed: 0 };

  const within = (value, low, high) => Math.max(low, Math.min(high, value));

  // log p(x, z) and log p(z | x) at the points of the grid, and log p(x).
  function truth(x) {
    const logJoint = GRID.map((z) => {
      const at = curve(z);
      return logNormal(z, 0, 1) + logNormal(x[0], at[0], NOISE) + logNormal(x[1], at[1], NOISE);
    });
    const top = Math.max(...logJoint);
    const sum = logJoint.reduce((total, value) => total + Math.exp(value - top), 0);
    const logEvidence = top + Math.log(sum * STEP);
    return { logJoint, logEvidence, logPosterior: logJoint.map((value) => value - logEvidence) };
  }

  // Two averages over q, which know nothing of each other.
  function terms({ logJoint, logPosterior }, mean, scale) {
    let elbo = 0, kl = 0;
    for (let i = 0; i < STEPS; i++) {
      const logQ = logNormal(GRID[i], mean, scale), share = Math.exp(logQ) * STEP;
      elbo += share * (logJoint[i] - logQ);
      kl += share * (logQ - logPosterior[i]);
    }
    return { elbo, kl };
  }

  // The best of all Gaussians, looked for on ever finer grids.
  function best(known) {
    let found = { mean: 0, scale: 0.8, elbo: -Infinity };
    for (let reach = 1; reach > 1e-4; reach /= 5) {
      const { mean, scale } = found;
      for (let i = -12; i <= 12; i++) {
        for (let j = -8; j <= 8; j++) {
          const m = within(mean + (i / 12) * REACH * reach, -REACH, REACH);
          const s = within(scale + (j / 8) * 0.75 * reach, NARROW, WIDE);
          const { elbo } = terms(known, m, s);
          if (elbo > found.elbo) found = { mean: m, scale: s, elbo };
        }
      }
    }
    return found;
  }

  function bound(say) {
    const state = { ...OPENING, x: [...OPENING.x] };
    const points = titledPlane("x", "drag the point x",
      "Data plane with the decoder's curve. Drag the point x, or move it with the arrow keys.",
      () => draw());
    const bells = titledPlane("z", "drag the top of q",
      "Latent axis with the posterior and the Gaussian q. Drag the top of q: sideways moves its mean, "
      + "up and down its width. So do the arrow keys.", () => draw());
    const bar = titledPlane("", "ELBO + KL(q ‖ p(z | x))", "A bar of the ELBO and of KL(q ‖ p(z | x)).",
      () => draw(), { keys: false });
    bells.extent = EXTENT;
    const heightOf = (density) => (2 * EXTENT * density) / TALLEST - EXTENT;
    const peak = (scale) => Math.exp(-0.5 * LOG_2_PI) / scale;

    const told = table("nats", ["ELBO", "KL(q ‖ p(z | x))", "sum", "log p(x)"], ["this q"]);

    function update() {
      if (!state.known || state.knownAt !== String(state.x)) {
        state.known = truth(state.x);
        state.knownAt = String(state.x);
      }
      state.terms = terms(state.known, state.mean, state.scale);
      const { elbo, kl } = state.terms, { logEvidence } = state.known;
      state.low ??= Math.min(BOTTOM, Math.floor(logEvidence) - 6);
      told.fill(0, [elbo, kl, elbo + kl, logEvidence].map((value) => number(value, 3)));
      knobs.mean.set(state.mean);
      knobs.scale.set(state.scale);
      points.at = [...state.x];
      bells.at = [state.mean, heightOf(peak(state.scale))];
      bar.canvas.setAttribute("aria-label", `A bar of two parts that ends at log p(x): ${words()}.`);
      draw();
    }

    const words = () => `ELBO ${number(state.terms.elbo)} and KL ${number(state.terms.kl)} `
      + `make log p(x) ${number(state.known.logEvidence)} nats`;

    function tell(quietly) {
      const [a, b] = state.x.map((value) => number(value, 1));
      say(`At x = (${a}, ${b}), for q with mean ${number(state.mean)} and scale `
        + `${number(state.scale)}: ${words()}.`, quietly);
    }

    function drawPoints() {
      points.clear();
      points.axes();
      const along = (from, to) => Array.from({ length: 121 }, (_, i) =>
        points.place(...curve(from + ((to - from) * i) / 120)));
      points.line(along(-3.2, 3.2), { colour: "likelihood", width: 1.5 });
      const { mean, scale, known } = state;
      // The posterior on the curve: the denser, the larger.
      known.logPosterior.forEach((value, i) => {
        const size = 5.5 * Math.sqrt(Math.exp(value) / 1.5);
        if (size < 0.7) return;
        const c = points.context, [a, b] = points.place(...curve(GRID[i]));
        Object.assign(c, { fillStyle: points.colour("posterior"), globalAlpha: 0.35 });
        c.beginPath();
        c.arc(a, b, size, 0, 2 * Math.PI);
        c.fill();
      });
      points.line(along(mean - scale, mean + scale), { colour: "ink", width: 2.5, dash: [5, 4] });
      points.names();
      points.spot(state.x, "data");
      const [a, b] = points.place(...state.x);
      points.text("x", a + 10, b - 8, { bold: true });
    }

    function drawBells() {
      const place = (z, density) => bells.place(z, heightOf(density));
      const path = (logDensity) => Array.from(GRID, (z, i) => [z, Math.exp(logDensity(z, i))])
        .filter(([z]) => Math.abs(z) <= EXTENT).map((at) => place(...at));
      bells.clear();
      for (const tick of TICKS) {
        const [x] = place(tick, 0);
        bells.line([[x, 0], [x, bells.height]], { colour: "frame", width: 0.5 });
      }
      const filled = path((_, i) => state.known.logPosterior[i]), c = bells.context;
      Object.assign(c, { fillStyle: bells.colour("posterior"), globalAlpha: 0.4 });
      c.beginPath();
      filled.forEach(([x, y], i) => (i ? c.lineTo(x, y) : c.moveTo(x, y)));
      c.fill();
      c.globalAlpha = 1;
      bells.line(filled, { colour: "posterior", width: 1 });
      bells.line(path((z) => logNormal(z, 0, 1)), { colour: "prior", width: 1.5 });
      bells.line(path((z) => logNormal(z, state.mean, state.scale)), { width: 2, dash: [5, 4] });
      for (const tick of TICKS) {
        bells.text(number(tick, 0), place(tick, 0)[0], bells.height - 9, { colour: "quiet", align: "center" });
      }
      // The densities of it, on the other side of their names.
      for (const tick of [1, 2]) {
        bells.text(String(tick), bells.width - 6, place(0, tick)[1], { colour: "quiet", align: "right" });
      }
      bells.text("density", bells.width - 6, 10, { align: "right" });
      bells.text("z", bells.width - 6, bells.height - 9, { align: "right" });
      bells.spot([state.mean, Math.min(EXTENT, heightOf(peak(state.scale)))], "ink");
      bells.text("p(z | x)", 6, 12, { colour: "posterior", bold: true });
      bells.text("prior p(z)", 6, 28, { colour: "prior", bold: true });
      bells.text("q(z)", 6, 44, { bold: true });
    }

    function drawBar() {
      const { elbo } = state.terms, { logEvidence } = state.known;
      const { low } = state, high = -1;
      const y = (nats) => bar.height * (1 - (Math.max(low, nats) - low) / (high - low));
      const left = bar.width * 0.3, right = bar.width * 0.7, c = bar.context;
      bar.clear();
      const every = high - low > 16 ? 5 : 2;
      const ticks = Array.from({ length: 40 }, (_, i) => (Math.ceil(low / every) + i) * every)
        .filter((tick) => tick < high && y(tick) <= bar.height - 8);
      for (const tick of ticks) {
        bar.line([[0, y(tick)], [bar.width, y(tick)]], { colour: "frame", width: 0.5 });
        bar.text(`${number(tick, 0)}${tick === ticks.at(-1) ? " nats" : ""}`, 5, y(tick), { colour: "quiet" });
      }
      const block = (from, to, colour, name) => {
        Object.assign(c, { fillStyle: bar.colour(colour), globalAlpha: 0.45 });
        c.fillRect(left, y(to), right - left, y(from) - y(to));
        c.globalAlpha = 1;
        if (y(from) - y(to) > 14) {
          bar.text(name, (left + right) / 2, (y(from) + y(to)) / 2, { align: "center", bold: true });
        }
      };
      block(low, elbo, "likelihood", "ELBO");
      block(elbo, logEvidence, "kl", "KL");
      bar.line([[left - 12, y(elbo)], [right + 12, y(elbo)]], { width: 1, dash: [3, 3] });
      if (elbo < low) bar.text(`ELBO ${number(elbo, 1)} ↓`, bar.width / 2, bar.height - 9, { align: "center" });
      bar.line([[left - 12, y(logEvidence)], [right + 12, y(logEvidence)]], { width: 2 });
      bar.text("log p(x)", (left + right) / 2, y(logEvidence) - 10, { align: "center", bold: true });
    }

    function draw() {
      if (!state.terms) return;
      drawPoints();
      drawBells();
      drawBar();
    }

    const show = (dragged) => {
      // The bar's scale holds while something is dragged.
      if (!dragged) state.low = null;
      update();
      tell(dragged);
    };
    const change = (changes) => {
      Object.assign(state, changes);
      show();
    };
    onDrag(points, (a, b) => { state.x = [a, b]; }, show);
    onDrag(bells, (z, height) => {
      const density = Math.max(1e-3, ((height + EXTENT) / (2 * EXTENT)) * TALLEST);
      state.mean = within(z, -REACH, REACH);
      state.scale = within(peak(1) / density, NARROW, WIDE);
    }, show);
    const knob = (name, key, min, max) => slider(name,
      { min, max, step: 0.01, value: state[key], words: (value) => number(value) },
      (value) => change({ [key]: value }));
    const knobs = {
      mean: knob("mean μ", "mean", -REACH, REACH), scale: knob("scale σ", "scale", NARROW, WIDE),
    };
    const buttons = element("div", { class: "lab-bar", role: "group", "aria-label": "The Gaussian q" },
      button("The best Gaussian", () => {
        const { mean, scale } = best(state.known);
        change({ mean, scale });
      }),
      button("New point", () => {
        const seed = state.seed + 1, random = new Random(seed), at = curve(random.normal());
        change({ seed, x: at.map((value) => value + NOISE * random.normal()) });
      }),
      button("Reset", () => change({ ...OPENING, x: [...OPENING.x] })));
    const settings = element("div", { class: "lab-bar" }, knobs.mean.node, knobs.scale.node);
    const key = colourKey(
      "Green: the decoder's curve. Orange: the true posterior, along z and on the curve. Dashed: the "
      + "Gaussian q, and one standard deviation of it on the curve.");
    update();
    tell();
    points.node.classList.add("live-wide");
    const row = element("div", { class: "live-planes live-picture" },
      points.node, bells.node, bar.node);
    return {
      nodes: [buttons, settings, row, key, told.node], draw, update, state, truth, terms, best,
      planes: [points, bells, bar],
      about: "Nothing is trained here: the decoder is the curve of section 1.1, and each number is a sum "
        + `over ${STEPS} slices of z.`,
    };
  }

  mount("bound", bound);
})((globalThis.FlowVAE = globalThis.FlowVAE || {}));
