// The ring through T levels of noise, forwards, and back by the steps of a model.
(function (FlowVAE) {
  "use strict";

  const { Tensor, Random, DATA_SETS, RINGS_CEILING, astray, mlp, trained, add, mul, concat } = FlowVAE;
  const { element, number, calm, button, colourKey, titledPlane, onDrag, nearest } = FlowVAE;
  const { slider, choice, table, glide, mount } = FlowVAE;

  const COUNTS = [1, 2, 4, 8, 16, 32, 64], SHOWN = 200, SECONDS = 2.5;
  // Log SNR of the first and of the last level; the table of errors has them evenly in between.
  const CLEAN = 4, NOISY = -4;
  const OPENING = { count: 8, steps: "fitted", level: 0, seed: 0, particle: 0 };

  const alpha = (lam) => Math.sqrt(1 / (1 + Math.exp(-lam))), sigma = (lam) => alpha(-lam);

  // Of z₁ … z_T.
  const levelsOf = (count) => Array.from({ length: count }, (_, i) =>
    (count > 1 ? CLEAN + ((NOISY - CLEAN) * i) / (count - 1) : NOISY));

  // The best guess of x from z at a log SNR, and the mean squared error of that guess.
  class Denoiser {
    constructor(width, errors, random) {
      this.variance = new Tensor(1, 1);
      this.errors = new Tensor(1, errors);
      this.net = mlp(3, [width, width, width], 2, random);
      this.parameters = [this.variance, this.errors, ...this.net.parameters];
    }

    forward(z, lam) {
      const a = alpha(lam), s = sigma(lam), [v] = this.variance.data, total = a * a * v + s * s;
      const level = new Tensor(z.rows, 1, new Float64Array(z.rows).fill(lam / 4));
      const correction = this.net.forward(concat(mul(z, total ** -0.5), level));
      return add(mul(z, (a * v) / total), mul(correction, s * Math.sqrt(v / total)));
    }

    error(lam) {
      const { data } = this.errors, place = ((lam - CLEAN) / (NOISY - CLEAN)) * (data.length - 1);
      const i = Math.min(Math.floor(place), data.length - 2), t = place - i;
      return (1 - t) * data[i] + t * data[i + 1];
    }
  }

  // r₂ … r_T, by which the fitted steps are wider, and the width of the decoder.
  function widths(denoise, count) {
    const lam = levelsOf(count);
    const r = lam.slice(1).map((noisier, i) =>
      ((Math.exp(lam[i]) - Math.exp(noisier)) * denoise.error(noisier)) / 2);
    return { r, decoder: Math.sqrt(denoise.error(lam[0]) / 2) };
  }

  // The ELBO of the training points in nats, with narrow steps or with fitted ones.
  function bound(denoise, count, steps) {
    const { r, decoder } = widths(denoise, count), last = levelsOf(count).at(-1);
    const variance = sigma(last) ** 2, [v] = denoise.variance.data;
    const top = variance - 1 - Math.log(variance) + alpha(last) ** 2 * v;
    const each = r.map((value) => (steps === "fitted" ? Math.log1p(value) : value));
    return -1 - Math.log(2 * Math.PI * decoder ** 2) - top - each.reduce((a, b) => a + b, 0);
  }

  // z₀ = x, z₁, …, z_T: each level shrinks the one before, and adds noise.
  function noised(x, count, random) {
    const seen = [x];
    let a = 1, s = 0;
    for (const lam of levelsOf(count)) {
      const shrink = alpha(lam) / a, scale = Math.sqrt(sigma(lam) ** 2 - (shrink * s) ** 2);
      seen.push(add(mul(seen.at(-1), shrink), mul(random.normals(x.rows, 2), scale)));
      [a, s] = [alpha(lam), sigma(lam)];
    }
    return seen;
  }

  // One step of the model from z_t to z_{t−1}, with noise; `r` is 0 for a narrow one.
  function stepBack(denoise, z, upper, lower, r, noise) {
    const g = -Math.expm1(upper - lower), a = alpha(lower);
    const kept = mul(z, (a * (1 - g)) / alpha(upper));
    const mean = add(kept, mul(denoise.forward(z, upper), a * g));
    return add(mean, mul(noise, Math.sqrt(g * (1 + r)) * sigma(lower)));
  }

  // z_T, …, z₁, x, in the order of `noised`: x first.
  function generated(denoise, count, steps, rows, random) {
    const lam = levelsOf(count), { r, decoder } = widths(denoise, count);
    let z = random.normals(rows, 2);
    const seen = [z];
    for (let t = count - 1; t > 0; t--) {
      const wider = steps === "fitted" ? r[t - 1] : 0;
      z = stepBack(denoise, z, lam[t], lam[t - 1], wider, random.normals(rows, 2));
      seen.push(z);
    }
    seen.push(add(denoise.forward(z, lam[0]), mul(random.normals(rows, 2), decoder)));
    return seen.reverse();
  }

  function levels(say) {
    const denoise = trained("levels")("denoiser", new Denoiser(32, 65, new Random(0)));
    const state = { ...OPENING }, kept = new Map();
    const planes = [["forwards: noise", "Forwards: the ring and its noise."],
      ["back: the model", "Back: from noise to samples."]].map(([title, label]) =>
      titledPlane("z", title, `${label} The arrow keys and a click choose the point that is followed.`,
        () => draw()));

    // Both chains, kept for each setting: 64 levels take their time.
    function chains() {
      const { count, steps, seed } = state, name = `${count} ${steps} ${seed}`;
      if (!kept.has(name)) {
        const random = new Random(seed), x = DATA_SETS.rings(SHOWN, random);
        kept.set(name, [noised(x, count, random),
          generated(denoise, count, steps, SHOWN, new Random(seed + 1e6))]);
      }
      return kept.get(name);
    }

    const told = table("nats", ["bound", "below the true density"], ["narrow steps", "fitted steps"]);

    function draw() {
      state.chains = chains();
      planes.forEach((plane, i) => {
        const chain = state.chains[i], { level, count } = state;
        const way = i ? chain.slice(level) : chain.slice(0, level + 1);
        plane.clear();
        plane.axes();
        plane.points(chain[level], level ? "posterior" : ["data", "likelihood"][i],
          { size: 1.6, alpha: 0.6 });
        const path = way.map((z) => plane.place(...z.row(state.particle)));
        plane.line(path, { width: count > 16 ? 1 : 1.6 });
        way.forEach((z) => plane.points(z.rowsAt([state.particle]), "ink", { size: 2.2 }));
        plane.spot(chain[level].row(state.particle), "ink");
        // z₁ is a level here.
        plane.names(...(level ? ["1st", "2nd"] : ["x₁", "x₂"]));
      });
    }

    function update() {
      const { count } = state;
      ["narrow", "fitted"].forEach((steps, r) => {
        const value = bound(denoise, count, steps);
        told.fill(r, [value, RINGS_CEILING - value].map((nats) => number(nats)));
      });
      draw();
    }

    function tell() {
      const { count, steps, level, chains: both } = state, value = bound(denoise, count, steps);
      const lost = (i) => Math.round(astray(both[i][0]));
      const where = level
        ? `Level ${level} of ${count}, log SNR ${number(levelsOf(count)[level - 1], 1)}.`
        : `${lost(1)} % of the samples are astray, and ${lost(0)} % of the data.`;
      say(`T = ${count}, ${steps} steps: a bound of ${number(value)} nats. ${where}`);
    }

    const words = (level) =>
      (level ? `${level} of ${state.count}${level === state.count ? " (noise)" : ""}` : "0 (data)");
    const depth = slider("level t:", { min: 0, max: OPENING.count, step: 1, value: 0, words },
      (level) => {
        going.stop();
        state.level = level;
        draw();
        tell();
      });
    const counts = slider("levels T:", {
      min: 0, max: COUNTS.length - 1, step: 1, value: COUNTS.indexOf(OPENING.count),
      words: (i) => String(COUNTS[i]),
    }, (i) => set({ count: COUNTS[i], level: Math.round((state.level / state.count) * COUNTS[i]) }));

    function set(changes) {
      going.stop();
      Object.assign(state, changes);
      depth.input.max = state.count;
      depth.set(state.level);
      update();
      tell();
    }

    const going = glide((level, arrived) => {
      state.level = Math.round(level);
      depth.set(state.level);
      draw();
      if (arrived) tell();
    });

    // Level by level to an end; where motion is not wanted, one level at a time.
    function play(end) {
      if (calm()) {
        set({ level: Math.max(0, Math.min(state.count, state.level + Math.sign(end - state.level))) });
        return;
      }
      going.go(state.level, end, state.count / SECONDS);
    }

    planes.forEach((plane, i) => onDrag(plane, (x, y) => {
      state.particle = nearest(state.chains[i][state.level], x, y);
    }, draw));
    const steps = choice("steps: ", { fitted: "fitted", narrow: "narrow" },
      (value) => set({ steps: value }));
    const bar = element("div", { class: "lab-bar", role: "group", "aria-label": "Levels" },
      button("▶ Add noise", () => play(state.count)), button("◀ Take it away", () => play(0)),
      steps.node, button("New noise", () => set({ seed: state.seed + 1 })),
      button("Reset", () => {
        steps.select.value = OPENING.steps;
        counts.set(COUNTS.indexOf(OPENING.count));
        set({ ...OPENING });
      }));
    const settings = element("div", { class: "lab-bar" }, counts.node, depth.node);
    const key = colourKey(
      "Orange: noisy points zₜ. At level 0, grey are data and green samples; astray is what lies "
      + "further than three standard deviations from each group. The line is the way of one point: "
      + "click another to follow it.");
    update();
    tell();
    const row = element("div", { class: "live-planes live-picture" }, ...planes.map((p) => p.node));
    const nodes = [bar, settings, row, key, told.node];
    return { nodes, draw, state, planes, set, denoise, bound, stepBack };
  }

  mount("levels", levels);
})((globalThis.FlowVAE = globalThis.FlowVAE || {}));
