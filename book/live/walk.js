// The way of one latent under refinement, step by step, with what it gains and how far it goes.
(function (FlowVAE) {
  "use strict";

  const { Tensor, Random, CouplingFlow, DENSITIES, standardNormal, mlp, trained } = FlowVAE;
  const { add, mul, softplus, columns, gaussianMixtureLogProb, objective, climb, wander } = FlowVAE;
  const { element, number, calm, Chart, button, titledPlane, onDrag, slider, choice } = FlowVAE;
  const { oncePerFrame, mount } = FlowVAE;

  const FLOW = { transforms: 4, hidden: [32, 32], kind: "spline" };
  // Nats for a nat of the trained reward's log-probability, as in the chapter.
  const WEIGHT = 3;
  // Of a painted reward: nats, the width of a spot, and how many spots there may be.
  const PAINTED = 2, SPOT = 0.35, MOST = 300;
  const EXTENT = 3.2, STEPS = 61, LONGEST = 300, AT_ONCE = 60, FAR = 30;
  const OPENING = {
    prior: "flow", reward: "none", start: [-0.6, 0.9], lr: 0.02, anchor: 0, temperature: 0, seed: 0,
  };

  // 2 log(1 + Σₛ exp(−‖z − s‖² / 2 w²)): a hill at each spot, which grows slowly when painted again.
  function paintedReward(spots) {
    const count = spots.length, loc = Tensor.from(spots), logits = new Tensor(1, count);
    const width = new Tensor(count, 2, new Float64Array(2 * count).fill(Math.log(SPOT)));
    const norm = Math.log(count * 2 * Math.PI * SPOT ** 2);
    return (z) => mul(softplus(add(gaussianMixtureLogProb(z, loc, width, logits), norm)), PAINTED);
  }

  function modelsOf(figure) {
    const fill = trained(figure), random = new Random(0);
    const flow = fill("flow", new CouplingFlow(2, FLOW, random)).forward();
    const net = fill("reward", mlp(2, [16], 1, random)), normal = standardNormal(2);
    const mixture = DENSITIES.rings();
    return {
      priors: {
        normal: (z) => normal.logProb(z), mixture: (z) => mixture.logProb(z),
        flow: (z) => flow.logProb(z),
      },
      rewards: {
        none: null,
        right: (z) => mul(columns(z, [0]), 2),
        // log sigmoid: the log-probability of that group.
        group: (z) => mul(softplus(mul(net.forward(z), -1)), -WEIGHT),
      },
    };
  }

  function walk(say) {
    const { priors, rewards } = modelsOf("walk");
    const state = { ...OPENING, running: false, spots: [] };
    const plane = titledPlane("z", "latent plane: click a start",
      "Latent plane. Click a start, or move it with the arrow keys. While a reward is painted, the arrow "
      + "keys move the brush, and space paints.", () => draw());
    plane.extent = EXTENT;
    const grid = plane.grid(STEPS), seen = new Map();
    const charts = ["of log p(z), the reward and their sum less the anchor", "of the distance"]
      .map((what) => Object.assign(
        new Chart(element("canvas", { class: "live-chart", role: "img" }), () => draw()), { what }));

    // At the points of the grid, once for each prior and reward.
    function heights(prior, reward) {
      const name = `${prior} ${reward}`;
      if (!seen.has(name)) {
        const logP = priors[prior](grid);
        seen.set(name, (rewards[reward] ? add(logP, rewards[reward](grid)) : logP).data);
      }
      return seen.get(name);
    }

    const painting = () => state.reward === "painted" && brush.select.value === "paint";

    function paint(spots) {
      state.spots = spots;
      rewards.painted = spots.length ? paintedReward(spots) : null;
      for (const name of seen.keys()) if (name.endsWith(" painted")) seen.delete(name);
    }

    // From the start again.
    function restart(changes = {}) {
      Object.assign(state, changes, { running: false });
      const start = Tensor.from([state.start]);
      state.goal = objective({
        logProb: priors[state.prior], reward: rewards[state.reward], anchor: state.anchor, start,
      });
      state.random = new Random(state.seed);
      state.end = "";
      state.rates = [state.lr];
      state.path = [state.goal.at(start)];
      if (!painting()) plane.at = [...state.start];
      go.textContent = "▶ Run";
      draw();
    }

    // One step, if there is one; otherwise `state.end` says why not.
    function step() {
      const here = state.path.at(-1);
      state.end = "";
      if (state.path.length > LONGEST) {
        state.end = " That is as far as this figure goes.";
      } else if (state.temperature > 0) {
        const noise = state.random.normals(1, 2);
        state.path.push(wander(state.goal, here, state.lr, state.temperature, noise));
      } else {
        const next = climb(state.goal, here, state.rates, state.lr);
        state.rates = next.rates;
        state.path.push(next.here);
      }
      const { z, value, gradient } = state.path.at(-1);
      const finite = [value, gradient].every(({ data }) => data.every(Number.isFinite));
      if (!finite || Math.hypot(...z.data) > FAR) {
        state.path.pop();
        state.end = " The next step leads far away: choose a smaller η.";
      }
      return !state.end;
    }

    // A step a frame; where motion is not wanted, all at once.
    function run() {
      if (state.running) {
        state.running = false;
        go.textContent = "▶ Run";
        tell();
        return;
      }
      state.running = true;
      go.textContent = "❚❚ Pause";
      let left = AT_ONCE;
      const frame = () => {
        if (!state.running) return;
        do {
          left -= 1;
          if (!step()) left = 0;
        } while (left > 0 && calm());
        draw();
        if (left > 0) requestAnimationFrame(frame);
        else run();
      };
      requestAnimationFrame(frame);
    }

    const distance = ({ z }) => Math.hypot(...z.data.map((v, d) => v - state.start[d]));
    const values = () => {
      if (state.path.length === 1) return `log p(z) is ${number(state.path[0].logProb.data[0])}`;
      const first = state.path[0], last = state.path.at(-1);
      const [a, b] = [first, last].map((point) => point.logProb.data[0]);
      const [r, s] = [first, last].map((point) => point.reward.data[0]);
      const reward = rewards[state.reward] ? `, the reward from ${number(r)} to ${number(s)}` : "";
      return `log p(z) from ${number(a)} to ${number(b)}${reward}, distance ${number(distance(last))}`;
    };

    function tell() {
      const steps = state.path.length - 1;
      const when = steps ? `After ${steps} step${steps === 1 ? "" : "s"}` : "At the start";
      say(`${when}: ${values()}.${state.end}`);
    }

    function draw() {
      if (!state.path) return;
      const { path } = state;
      plane.clear();
      plane.axes();
      plane.density(heights(state.prior, "none"), EXTENT, "prior");
      if (rewards[state.reward]) {
        const look = { colour: "likelihood", width: 2, dash: [5, 4] };
        plane.outline(heights(state.prior, state.reward), EXTENT, 0.9, look);
      }
      if (state.reward === "painted" && state.spots.length) {
        plane.points(Tensor.from(state.spots), "likelihood", { size: 3, alpha: 0.4 });
      }
      if (painting()) plane.points(Tensor.from([plane.at]), "likelihood", { size: 7, mark: "ring" });
      plane.names();
      plane.line(path.map(({ z }) => plane.place(...z.data)), { colour: "ink", width: 1.6 });
      path.forEach(({ z }, i) => i && plane.points(z, "ink", { size: 2.2 }));
      plane.spot(state.start, "quiet");
      plane.spot(path.at(-1).z.data, "ink");
      const last = Math.max(30, 30 * Math.ceil((path.length - 1) / 30));
      const curve = (label, colour, value, dash) =>
        ({ label, colour, dash, points: path.map((point, i) => [i, value(point)]) });
      const nats = [curve("log p", "prior", (point) => point.logProb.data[0])];
      if (rewards[state.reward]) {
        nats.push(curve("reward", "likelihood", (point) => point.reward.data[0]));
      }
      if (rewards[state.reward] || state.anchor) {
        nats.push(curve("U", "ink", (point) => point.value.data[0], [5, 3]));
      }
      const axis = { last, across: "steps", skip: 0 };
      charts[0].draw({ title: "in nats", lines: nats, ...axis });
      charts[1].draw({
        title: "distance from the start", lines: [curve("", "ink", distance)], ...axis,
      });
      charts.forEach(({ canvas, what }) => canvas.setAttribute("aria-label",
        `Curves over the steps ${what}. ${values()}.`));
    }

    const again = oncePerFrame(() => restart());
    onDrag(plane, (x, y, kind) => {
      if (kind === "release") {
        tell();
        return;
      }
      if (painting()) {
        if (kind === "press" && state.spots.length < MOST) {
          paint([...state.spots, [x, y]]);
          again();
        } else {
          draw();
        }
        return;
      }
      state.start = [x, y];
      if (kind === "key") {
        restart();
        tell();
      } else {
        again();
      }
    });
    const change = (key) => (value) => {
      restart({ [key]: value });
      tell();
    };
    const selects = {
      prior: choice("prior: ", {
        flow: "spline flow", mixture: "mixture of eight", normal: "N(0, I)",
      }, change("prior")),
      reward: choice("reward: ", {
        none: "none", right: "2 z₁: to the right", group: "trained: the group at the top",
        painted: "painted by you",
      }, (value) => {
        brush.node.hidden = wipe.hidden = value !== "painted";
        change("reward")(value);
        if (value === "painted" && !state.spots.length) say("Drag over the plane to paint a reward.");
      }),
    };
    const brush = choice("drag: ", { paint: "paints the reward", start: "moves the start" }, () => {
      plane.at = [...state.start];
      draw();
    });
    const wipe = button("Clear the paint", () => {
      paint([]);
      change("running")(false);
    });
    brush.node.hidden = wipe.hidden = true;
    const fine = (value) => number(value, value && value < 0.1 ? 3 : 2);
    const knob = (name, key, max, step) =>
      slider(name, { min: step, max, step, value: state[key], words: fine }, change(key));
    const knobs = {
      lr: knob("step η", "lr", 0.2, 0.005),
      anchor: slider("anchor κ", { min: 0, max: 10, step: 0.1, value: 0, words: fine },
        change("anchor")),
      temperature: slider("temperature τ", { min: 0, max: 2, step: 0.1, value: 0, words: fine },
        change("temperature")),
    };
    const go = button("▶ Run", run);
    const bar = element("div", { class: "lab-bar", role: "group", "aria-label": "Refinement" },
      button("Step", () => {
        state.running = false;
        step();
        draw();
        tell();
      }), go,
      button("Back to the start", () => change("running")(false)),
      button("New noise", () => change("seed")(state.seed + 1)),
      button("Reset", () => {
        for (const [key, { set }] of Object.entries(knobs)) set(OPENING[key]);
        for (const [key, { select }] of Object.entries(selects)) select.value = OPENING[key];
        brush.select.value = "paint";
        brush.node.hidden = wipe.hidden = true;
        paint([]);
        restart({ ...OPENING });
        tell();
      }));
    const settings = element("div", { class: "lab-bar" },
      selects.prior.node, selects.reward.node, brush.node, wipe, ...Object.values(knobs).map(({ node }) => node));
    const key = element("p", { class: "live-key" },
      "Blue: the prior, with lines around half of it and 95 %. Dashed green: nine tenths of the prior "
      + "times the exponential of the reward. At τ = 0 a step that would lower U is halved; above, "
      + "noise is added.");
    restart();
    tell();
    const row = element("div", { class: "live-planes live-pair live-picture" }, plane.node,
      element("div", {}, ...charts.map(({ canvas }) => canvas)));
    const nodes = [bar, settings, row, key];
    return { nodes, draw, state, priors, rewards, planes: [plane], restart, step, paint };
  }

  mount("walk", walk);
})((globalThis.FlowVAE = globalThis.FlowVAE || {}));
