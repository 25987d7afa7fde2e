// Noise carried to codes by a learned velocity field, in as many steps as the reader allows.
(function (FlowVAE) {
  "use strict";

  const { Tensor, Random, Linear, standardNormal, astray, trained } = FlowVAE;
  const { add, mul, unary, silu, linear, rowSum } = FlowVAE;
  const { element, number, calm, button, colourKey, titledPlane, onDrag } = FlowVAE;
  const { slider, choice, table, glide, mount } = FlowVAE;

  const WIDTH = 64, SHOWN = 250, PATHS = 40, EXACT = 64, SECONDS = 2.5;
  const COUNTS = [1, 2, 4, 8, 16, 32, 64], ARROWS = 13, START = [-0.7, 1.3];
  const OPENING = { steps: 8, solver: "rk4", time: 1, seed: 0 };

  const clock = (t) => Tensor.from([[t, ...[1, 2].flatMap((k) =>
    [Math.sin(k * Math.PI * t), Math.cos(k * Math.PI * t)])]]);
  // The velocity of straight paths from N(0, I) to itself, as a multiple of the place.
  const atRest = (t) => (2 * t - 1) / (t ** 2 + (1 - t) ** 2);

  const gate = (v) => 1 / (1 + Math.exp(-v));
  const slope = (x) => unary(x, (v) => gate(v) * (1 + v * (1 - gate(v))));

  class VelocityField {
    constructor(features, random) {
      this.features = features;
      this.first = new Linear(features, WIDTH, random);
      this.time = new Linear(5, WIDTH, random, false);
      this.second = new Linear(WIDTH, WIDTH, random);
      this.last = new Linear(WIDTH, features, random);
      this.parameters = [this.first, this.time, this.second, this.last].flatMap((p) => p.parameters);
    }

    // The velocity (N, D), and its divergence (N, 1), which costs one more product.
    withDivergence(h, t) {
      const a = add(this.first.forward(h), this.time.forward(clock(t)));
      const b = this.second.forward(silu(a)), rest = atRest(t);
      const mixed = (this.mixed ??= this.mix());
      const divergence = rowSum(mul(slope(b), linear(slope(a), mixed, null)));
      return [add(this.last.forward(silu(b)), mul(h, rest)), add(divergence, rest * this.features)];
    }

    forward(h, t) {
      const a = add(this.first.forward(h), this.time.forward(clock(t)));
      return add(this.last.forward(silu(this.second.forward(silu(a)))), mul(h, atRest(t)));
    }

    // W₂ ∘ (W₁ W₃)ᵀ.
    mix() {
      const W1 = this.first.weight, W2 = this.second.weight, W3 = this.last.weight;
      const out = new Tensor(WIDTH, WIDTH);
      for (let j = 0; j < WIDTH; j++) {
        for (let i = 0; i < WIDTH; i++) {
          let sum = 0;
          for (let d = 0; d < this.features; d++) sum += W1.row(i)[d] * W3.row(d)[j];
          out.row(j)[i] = W2.row(j)[i] * sum;
        }
      }
      return out;
    }
  }

  // Of each solver: a weighted mean of velocities, (place, time, step) to that of the whole step.
  const SOLVERS = {
    euler: (v, h, t) => v(h, t),
    rk4: (v, h, t, step) => {
      const ahead = ([by], share) => add(h, mul(by, share * step));
      const v1 = v(h, t), v2 = v(ahead(v1, 0.5), t + step / 2);
      const v3 = v(ahead(v2, 0.5), t + step / 2), v4 = v(ahead(v3, 1), t + step);
      return v1.map((_, i) =>
        mul(add(add(v1[i], v4[i]), mul(add(v2[i], v3[i]), 2)), 1 / 6));
    },
  };

  // h at each step on the way from one time to another.
  function follow(field, h, steps, solver, [from, to] = [0, 1]) {
    const path = [h], step = (to - from) / steps, velocity = (at, t) => [field.forward(at, t)];
    for (let i = 0; i < steps; i++) {
      const [by] = SOLVERS[solver](velocity, path[i], from + i * step, step);
      path.push(add(path[i], mul(by, step)));
    }
    return path;
  }

  // log p(z), by the way back from z to noise, in eight steps of Runge–Kutta as in the package.
  function logProb(field, z, steps = 8) {
    const velocity = (at, t) => field.withDivergence(at, t), step = -1 / steps;
    let h = z, sum = new Tensor(z.rows, 1);
    for (let i = 0; i < steps; i++) {
      const [by, divergence] = SOLVERS.rk4(velocity, h, 1 + i * step, step);
      [h, sum] = [add(h, mul(by, step)), add(sum, mul(divergence, step))];
    }
    return add(standardNormal(z.cols).logProb(h), sum);
  }

  const apart = (a, b, n) => Math.hypot(a.row(n)[0] - b.row(n)[0], a.row(n)[1] - b.row(n)[1]);
  const meanOf = (rows, f) =>
    Array.from({ length: rows }, (_, n) => f(n)).reduce((sum, v) => sum + v, 0) / rows;

  // How much longer all the paths are together than straight ones would be.
  function detour(path) {
    const end = path.at(-1), length = (n) =>
      path.slice(1).reduce((sum, h, i) => sum + apart(h, path[i], n), 0);
    return meanOf(end.rows, length) / meanOf(end.rows, (n) => apart(end, path[0], n));
  }

  function particles(say) {
    const prior = trained("particles")("prior", new VelocityField(2, new Random(0)));
    const state = { ...OPENING, start: [...START] }, kept = new Map();
    const cloud = titledPlane("h", "particles",
      "Particles. Drag the start of the marked one, or move it with the arrow keys.", () => draw());
    const wind = titledPlane("h", "the field at this time",
      "The velocity field at this time, as arrows.", () => draw(), { keys: false });
    const arrows = wind.grid(ARROWS);

    // The cloud's ways, kept for each setting: many steps take their time.
    function ways(solver, steps) {
      const name = `${solver} ${steps} ${state.seed}`;
      if (!kept.has(name)) {
        kept.set(name, follow(prior, new Random(state.seed).normals(SHOWN, 2), steps, solver));
      }
      return kept.get(name);
    }

    const told = table("", ["network calls", "off the exact end", "detour", "astray"],
      ["plain steps", "Runge–Kutta"]);

    function measures(solver) {
      const way = ways(solver, state.steps), exact = ways("rk4", EXACT).at(-1), end = way.at(-1);
      return {
        calls: state.steps * (solver === "rk4" ? 4 : 1),
        off: meanOf(SHOWN, (n) => apart(end, exact, n)), detour: detour(way), astray: astray(end),
      };
    }

    // The paths at the time that is shown: whole steps, and a part of one.
    function until(path) {
      const place = state.time * state.steps, whole = Math.min(Math.floor(place), state.steps - 1);
      const a = path[whole], b = path[whole + 1];
      return [...path.slice(0, whole + 1), add(mul(a, whole + 1 - place), mul(b, place - whole))];
    }

    function update() {
      state.own = follow(prior, Tensor.from([state.start]), state.steps, state.solver);
      state.logP = logProb(prior, state.own.at(-1)).data[0];
      Object.keys(SOLVERS).forEach((solver, r) => {
        const { calls, off, detour: longer, astray: share } = measures(solver);
        told.fill(r, [String(calls), number(off, 3), `${number(100 * (longer - 1), 0)} %`,
          `${Math.round(share)} %`]);
      });
      cloud.at = [...state.start];
      draw();
    }

    function tell(quietly) {
      const { steps, solver, time, own, logP } = state, { off } = measures(solver);
      const [a, b] = own.at(-1).data, name = solver === "rk4" ? "Runge–Kutta" : "plain";
      say(`Time ${number(time)}. With ${steps} ${name} step${steps === 1 ? "" : "s"} the particles end `
        + `${number(off)} from where they should, and the marked one at (${number(a, 1)}, `
        + `${number(b, 1)}), where log p(z) is ${number(logP)} nats.`, quietly);
    }

    function draw() {
      if (!state.own) return;
      const now = until(ways(state.solver, state.steps)), own = until(state.own);
      cloud.clear();
      cloud.axes();
      const path = (seen, n) => seen.map((h) => cloud.place(...h.row(n)));
      cloud.paths(Array.from({ length: PATHS }, (_, n) => path(now, n)),
        { colour: "prior", width: 0.8, alpha: 0.5 });
      cloud.points(now.at(-1), "prior", { size: 1.8, alpha: 0.8 });
      cloud.line(path(own, 0), { width: 1.6 });
      own.slice(0, -1).forEach((h) => cloud.points(h, "ink", { size: 2.2 }));
      cloud.spot(state.start, "quiet");
      cloud.spot(own.at(-1).row(0), "ink");
      cloud.names();
      wind.clear();
      wind.axes();
      const velocity = prior.forward(arrows, state.time);
      const shafts = Array.from({ length: arrows.rows }, (_, n) => {
        const [x, y] = arrows.row(n), [a, b] = velocity.row(n), long = Math.hypot(a, b);
        // Longer ones would cross their neighbours.
        const share = 0.22 * Math.min(1, 3 / long);
        const at = wind.place(x, y), end = wind.place(x + share * a, y + share * b);
        const back = (turn) => {
          const angle = Math.atan2(end[1] - at[1], end[0] - at[0]) + turn;
          return [end[0] - 3.5 * Math.cos(angle), end[1] - 3.5 * Math.sin(angle)];
        };
        return [at, end, back(0.5), end, back(-0.5)];
      });
      wind.paths(shafts, { colour: "posterior", width: 1 });
      wind.points(now.at(-1), "prior", { size: 1.5, alpha: 0.5 });
      wind.spot(own.at(-1).row(0), "ink");
      wind.names();
    }

    function set(changes) {
      going.stop();
      Object.assign(state, changes);
      when.set(state.time);
      update();
      tell();
    }

    const going = glide((time, arrived) => {
      state.time = time;
      when.set(time);
      draw();
      if (arrived) tell();
    });

    // Through the time, to `end`; where motion is not wanted, at once.
    function play(end) {
      if (calm()) {
        set({ time: end });
        return;
      }
      going.go(1 - end, end, 1 / SECONDS);
    }

    onDrag(cloud, (x, y) => { state.start = [x, y]; }, (dragged) => {
      update();
      tell(dragged);
    });
    const when = slider("time t", { min: 0, max: 1, step: 0.01, value: OPENING.time,
      words: (t) => number(t) }, (time) => {
      going.stop();
      state.time = time;
      draw();
      tell();
    });
    const counts = slider("steps", { min: 0, max: COUNTS.length - 1, step: 1,
      value: COUNTS.indexOf(OPENING.steps), words: (i) => String(COUNTS[i]) },
    (i) => set({ steps: COUNTS[i] }));
    const solver = choice("solver: ", { rk4: "Runge–Kutta, four calls a step", euler: "plain steps" },
      (value) => set({ solver: value }));
    const bar = element("div", { class: "lab-bar", role: "group", "aria-label": "Particles" },
      button("▶ To the codes", () => play(1)), button("◀ Back to noise", () => play(0)), solver.node,
      button("New noise", () => set({ seed: state.seed + 1 })),
      button("Reset", () => {
        solver.select.value = OPENING.solver;
        counts.set(COUNTS.indexOf(OPENING.steps));
        set({ ...OPENING, start: [...START] });
      }));
    const settings = element("div", { class: "lab-bar" }, counts.node, when.node);
    const key = colourKey(
      "Blue: particles, and the ways of forty of them. Black: the marked one, with a dot a step, from its "
      + "start in grey. The exact end is that of 64 steps of Runge–Kutta; the detour is what the ways are "
      + "longer than straight ones; astray is further than three standard deviations from each group.");
    update();
    tell();
    const planes = element("div", { class: "live-planes live-picture" }, cloud.node, wind.node);
    return {
      nodes: [bar, settings, planes, key, told.node], draw, update, state, prior, follow, logProb, measures,
      set, planes: [cloud, wind],
    };
  }

  mount("particles", particles);
})((globalThis.FlowVAE = globalThis.FlowVAE || {}));
