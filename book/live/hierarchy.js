// Two levels of one number each: hold one of them, draw the other, and see what is left open.
(function (FlowVAE) {
  "use strict";

  const { Tensor, Random, Linear, VampPrior, GaussianPosterior, GaussianLikelihood } = FlowVAE;
  const { DATA_SETS, mlp, silu, add, columns, concat, trained } = FlowVAE;
  const { element, number, button, colourKey, titledPlane, onDrag, choice, table, mount } = FlowVAE;

  const WIDTH = 32, COUNT = 16, SHOWN = 300, DRAWN = 120, STEPS = 81, EXTENT = 9, BLADES = 5;
  const OPENING = { z: [4, -0.5], hold: "top", seed: 0 };

  // A network of two inputs: each goes through a layer of its own, then both through one network.
  class TwoInputs {
    constructor(first, second, out, random) {
      this.first = new Linear(first, WIDTH, random);
      this.second = new Linear(second, WIDTH, random);
      this.joint = mlp(2 * WIDTH, [WIDTH], out, random);
      this.parameters = [this.first, this.second, this.joint].flatMap((part) => part.parameters);
    }

    forward(a, b) {
      return this.joint.forward(concat(silu(this.first.forward(a)), silu(this.second.forward(b))));
    }
  }

  // The same of the two parts of one vector.
  class OnParts {
    constructor(net) {
      this.net = net;
      this.parameters = net.parameters;
    }

    forward(z) {
      return this.net.forward(columns(z, [0]), columns(z, [1]));
    }
  }

  // Latents are [z₂, z₁], as in the package.
  function modelOf(figure) {
    const fill = trained(figure), random = new Random(0);
    const top = fill("top", new GaussianPosterior(mlp(2, [WIDTH, WIDTH], 2, random)));
    const net = fill("below", new TwoInputs(2, 1, 2, random));
    const given = { forward: ([x, z2]) => net.forward(x, z2), parameters: net.parameters };
    const below = new GaussianPosterior(given);
    below.logScaleBounds = FlowVAE.LOG_SCALE_BOUNDS;
    const prior = fill("prior", new VampPrior(top, new Tensor(COUNT, 2)));
    const conditional = fill("conditional",
      new GaussianPosterior(mlp(1, [WIDTH, WIDTH], 2, random)));
    const likelihood = fill("likelihood",
      new GaussianLikelihood(new OnParts(new TwoInputs(1, 1, 2, random)), 2));
    const p2 = prior.forward();
    // Of each level, (N, 1) each.
    const logProbParts = (z) => [p2.logProb(columns(z, [0])),
      conditional.forward(columns(z, [0])).logProb(columns(z, [1]))];
    return { top, below, conditional, likelihood, p2, logProbParts };
  }

  // Which blade of the pinwheel a point belongs to.
  function bladeOf([a, b]) {
    const angle = Math.atan2(b, a) - 0.5 * Math.hypot(a, b);
    return ((Math.round((angle * BLADES) / (2 * Math.PI)) % BLADES) + BLADES) % BLADES;
  }

  function hierarchy(say) {
    const model = modelOf("hierarchy"), data = DATA_SETS.pinwheel(SHOWN, new Random(0));
    const state = { ...OPENING, z: [...OPENING.z] };
    const latents = titledPlane("z", "latent plane",
      "Latent plane, z₂ upwards and z₁ across. Drag the latent, or move it with the arrow keys.",
      () => draw());
    const points = titledPlane("x", "data plane",
      "Data plane. Click a point to have it encoded, or move it with the arrow keys.", () => draw());
    latents.extent = EXTENT;
    // Both as the plane has them: across first.
    const swap = (z) => columns(z, [1, 0]);
    const grid = latents.grid(STEPS);
    const [top, lower] = model.logProbParts(swap(grid));
    const heights = add(top, lower).data;

    // z₁ from p(z₁ | z₂), or z₂ from p(z₂ | z₁): a cut through the density, drawn by its sums.
    function drawOther(random) {
      const [z2, z1] = state.z;
      const free = Array.from({ length: 721 }, (_, i) => -1.5 * EXTENT + (i * EXTENT) / 240);
      const cut = Tensor.from(free.map((v) => (state.hold === "top" ? [z2, v] : [v, z1])));
      const parts = model.logProbParts(cut);
      const logP = state.hold === "top" ? parts[1].data : add(...parts).data;
      const highest = Math.max(...logP);
      let sum = 0;
      const ends = Array.from(logP, (value) => (sum += Math.exp(value - highest)));
      return Tensor.from(Array.from({ length: DRAWN }, () => {
        const u = random.uniform() * sum, i = ends.findIndex((end) => u < end);
        const v = free[Math.max(0, i)] + (random.uniform() - 0.5) * (EXTENT / 240);
        return state.hold === "top" ? [z2, v] : [v, z1];
      }));
    }

    // Of points drawn with each level held, the share in the blade that holds the most.
    const cells = { top: "z₂ held, z₁ drawn", lower: "z₁ held, z₂ drawn" };
    const rows = Object.keys(cells).map((hold) => ({ hold }));
    const told = table(`${DRAWN} points`, ["blades", "in the fullest"], Object.values(cells));

    function spread(x) {
      const counts = Array(BLADES).fill(0);
      for (let n = 0; n < x.rows; n++) counts[bladeOf(x.row(n))] += 1;
      return { blades: counts.filter((c) => c > 0.02 * x.rows).length, most: Math.max(...counts) / x.rows };
    }

    function update() {
      const { hold } = state;
      rows.forEach((each, r) => {
        state.hold = each.hold;
        const z = drawOther(new Random(state.seed)), x = model.likelihood.forward(z).loc;
        Object.assign(each, { z, x, spread: spread(x) });
        told.fill(r, [String(each.spread.blades), `${Math.round(100 * each.spread.most)} %`]);
      });
      state.hold = hold;
      state.drawn = rows.find((each) => each.hold === hold);
      state.x = [...model.likelihood.forward(Tensor.from([state.z])).loc.data];
      latents.at = [state.z[1], state.z[0]];
      points.at = [...state.x];
      draw();
    }

    function tell(quietly) {
      const [z2, z1] = state.z.map((v) => number(v, 1)), { blades, most } = state.drawn.spread;
      const held = state.hold === "top" ? `z₂ held at ${z2} and z₁ drawn` : `z₁ held at ${z1} and z₂ drawn`;
      say(`With ${held}, the points lie in ${blades} of the five blades, ${Math.round(100 * most)} % of `
        + "them in one.", quietly);
    }

    function draw() {
      if (!state.drawn) return;
      const { drawn, hold, z, x } = state, look = { size: 2, alpha: 0.6 };
      latents.clear();
      latents.axes();
      latents.still(() => latents.density(heights, EXTENT, "prior"));
      const cut = hold === "top" ? [[-EXTENT, z[0]], [EXTENT, z[0]]] : [[z[1], -EXTENT], [z[1], EXTENT]];
      latents.line(cut.map((at) => latents.place(...at)), { dash: [5, 4] });
      latents.points(swap(drawn.z), "likelihood", look);
      latents.names();
      latents.spot([z[1], z[0]], "ink");
      points.clear();
      points.axes();
      points.points(data, "data", { size: 1.5, alpha: 0.35 });
      points.points(drawn.x, "likelihood", { size: 2.2, alpha: 0.8 });
      points.names();
      points.spot(x, "ink");
    }

    const show = (dragged) => {
      update();
      tell(dragged);
    };
    onDrag(latents, (z1, z2) => { state.z = [z2, z1]; }, show);
    onDrag(points, (a, b) => {
      // Its code, level by level: the means.
      const x = Tensor.from([[a, b]]), z2 = model.top.forward(x).loc;
      const z1 = model.below.forward([x, z2]).loc;
      state.z = [...z2.data, ...z1.data];
    }, show);
    const change = (changes) => {
      Object.assign(state, changes);
      show();
    };
    const holds = choice("hold: ", { top: "the top, z₂: draw z₁", lower: "the lower, z₁: draw z₂" },
      (hold) => change({ hold }));
    const bar = element("div", { class: "lab-bar", role: "group", "aria-label": "Two levels" },
      holds.node,
      button("New noise", () => change({ seed: state.seed + 1 })),
      button("Reset", () => {
        holds.select.value = OPENING.hold;
        change({ ...OPENING, z: [...OPENING.z] });
      }));
    const key = colourKey(
      "Blue: the prior of both levels, with lines around half of it and 95 %. Dashed: the cut at the level "
      + "that is held. Green: what is drawn there, and what it decodes to. Grey: data.");
    update();
    tell();
    const planes = element("div", { class: "live-planes live-picture" }, latents.node, points.node);
    return {
      nodes: [bar, planes, key, told.node], draw, update, state, model, rows, bladeOf,
      planes: [latents, points],
    };
  }

  mount("hierarchy", hierarchy);
})((globalThis.FlowVAE = globalThis.FlowVAE || {}));
