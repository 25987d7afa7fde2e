// Two trained flows, affine and spline, one coupling after another: what they do to a grid and to a
// cloud of points.
(function (FlowVAE) {
  "use strict";

  const { Tensor, Random, CouplingFlow, Permutation, DATA_SETS, trained } = FlowVAE;
  const { add, columns, mean } = FlowVAE;
  const { element, number, calm, button, colourKey, titledPlane, slider, choice, glide, mount } = FlowVAE;

  const SETTINGS = { transforms: 4, hidden: [32, 32] }, KINDS = ["affine", "spline"];
  // Cells along a side of the grid, which goes from −REACH to REACH; a line each so many cells.
  const CELLS = 48, REACH = 3, EACH = 4, SHOWN = 500;
  // Nats of the log-determinant at which a colour is full, its steps until there.
  const FULL = 4, LEVELS = 8;
  const SECONDS_A_LAYER = 0.9;

  // Where the flow takes the rows of u, (N, 2), and the log-determinant (N, 1) so far: before the
  // first map and after each but the permutations, always in the order of u's own two numbers.
  function stages(flow, u) {
    let order = [0, 1], x = u, ladj = new Tensor(u.rows, 1);
    const seen = [{ x, ladj }];
    for (const transform of flow.transform().transforms) {
      const [y, more] = transform.callAndLadj(x);
      x = y;
      if (transform instanceof Permutation) {
        order = transform.order.map((i) => order[i]);
      } else {
        ladj = add(ladj, more);
        seen.push({ x: columns(x, [0, 1].map((i) => order.indexOf(i))), ladj });
      }
    }
    return seen;
  }

  // Between two stages, on straight lines.
  function between(seen, depth) {
    const i = Math.min(Math.floor(depth), seen.length - 2), t = depth - i;
    const mixed = (key) => {
      const [a, b] = [seen[i][key], seen[i + 1][key]];
      return new Tensor(a.rows, a.cols, a.data.map((v, j) => v + t * (b.data[j] - v)));
    };
    return { x: mixed("x"), ladj: mixed("ladj") };
  }

  const vertex = (r, q) => r * (CELLS + 1) + q;

  function lattice() {
    const u = new Tensor((CELLS + 1) ** 2, 2), at = (i) => REACH * ((2 * i) / CELLS - 1);
    for (let r = 0; r <= CELLS; r++) {
      for (let q = 0; q <= CELLS; q++) u.row(vertex(r, q)).set([at(q), at(r)]);
    }
    return u;
  }

  // Cells in the colour of their log-determinant, then some of the lines between them.
  function drawGrid(plane, { x, ladj }) {
    const at = (r, q) => plane.place(...x.row(vertex(r, q))), c = plane.context;
    const buckets = new Map();
    for (let r = 0; r < CELLS; r++) {
      for (let q = 0; q < CELLS; q++) {
        const corners = [[r, q], [r, q + 1], [r + 1, q + 1], [r + 1, q]];
        const value = corners.reduce((sum, [a, b]) => sum + ladj.data[vertex(a, b)] / 4, 0);
        const most = Math.max(-LEVELS, Math.min(LEVELS, Math.round((LEVELS * value) / FULL)));
        if (!buckets.has(most)) buckets.set(most, []);
        buckets.get(most).push(corners.map(([a, b]) => at(a, b)));
      }
    }
    for (const [most, cells] of buckets) {
      if (!most) continue;
      c.fillStyle = plane.colour(most < 0 ? "kl" : "likelihood");
      c.globalAlpha = (0.75 * Math.abs(most)) / LEVELS;
      c.beginPath();
      for (const cell of cells) {
        cell.forEach((point, i) => (i ? c.lineTo(...point) : c.moveTo(...point)));
        c.closePath();
      }
      c.fill();
    }
    const all = Array.from({ length: CELLS + 1 }, (_, i) => i);
    const some = all.filter((i) => i % EACH === 0);
    const lines = [(i, j) => at(i, j), (i, j) => at(j, i)].flatMap((point) =>
      some.map((i) => all.map((j) => point(i, j))));
    plane.paths(lines, { colour: "quiet", width: 0.8, alpha: 0.8 });
  }

  function layers(say) {
    const fill = trained("layers");
    const flows = KINDS.map((kind) =>
      fill(kind, new CouplingFlow(2, { ...SETTINGS, kind }, new Random(0))));
    const grids = flows.map((flow) => stages(flow, lattice())), last = grids[0].length - 1;
    const planes = KINDS.map((kind) => titledPlane("z", kind, kind, () => draw(), { keys: false }));
    const state = { depth: 0, seed: 0, cloud: "noise" };

    // Draws of the noise sent forwards, or points of the ring that were sent back.
    function renew() {
      const random = new Random(state.seed);
      const noise = random.normals(SHOWN, 2), ring = DATA_SETS.rings(SHOWN, random);
      state.clouds = flows.map((flow) => stages(flow,
        state.cloud === "noise" ? noise : flow.transform().inverseAndLadj(ring)[0]));
      planes.forEach(({ heading }, i) => {
        const fit = mean(flows[i].forward().logProb(ring)).data[0];
        heading.textContent = `${KINDS[i]}: ${number(fit)} nats a point of the ring`;
      });
    }

    const words = (depth) => {
      const whole = Math.floor(depth + 1e-9), whither = depth > whole + 1e-9 ? " and a part" : "";
      if (!depth) return "0 (noise)";
      return depth === last ? "all, scaled" : `${Math.min(whole, last - 1)} of ${last - 1}${whither}`;
    };

    function draw() {
      if (!state.clouds) return;
      planes.forEach((plane, i) => {
        plane.clear();
        plane.axes();
        drawGrid(plane, between(grids[i], state.depth));
        plane.points(between(state.clouds[i], state.depth).x, "data", { size: 1.5, alpha: 0.75 });
        const ends = { 0: "u", [last]: "z" }, name = ends[state.depth];
        plane.names(...(name ? [`${name}₁`, `${name}₂`] : ["1st", "2nd"]));
      });
    }

    function tell() {
      const ranges = grids.map((seen) => {
        const { data } = between(seen, state.depth).ladj;
        return `from ${number(Math.min(...data), 1)} to ${number(Math.max(...data), 1)}`;
      });
      const done = `Couplings done: ${words(state.depth)}.`;
      planes.forEach(({ canvas }, i) => canvas.setAttribute("aria-label",
        `Grid and cloud in the ${KINDS[i]} flow. ${done} Log-determinant ${ranges[i]} nats.`));
      say(`${done} The log-determinant on the grid goes ${ranges[0]} nats in the affine flow, and `
        + `${ranges[1]} in the spline flow.`);
    }

    const depth = slider("Couplings done:",
      { min: 0, max: last, step: 0.05, value: 0, words }, (value) => {
        going.stop();
        to(value);
      });

    function to(value, there = true) {
      depth.set(value);
      state.depth = value;
      draw();
      if (there) tell();
    }

    const going = glide(to);

    // Runs to an end; where motion is not wanted, one coupling at a time and at once.
    function play(end) {
      if (calm()) {
        to(Math.max(0, Math.min(last, Math.round(state.depth) + (end ? 1 : -1))));
        return;
      }
      going.go(state.depth, end, 1 / SECONDS_A_LAYER);
    }

    function start(changes) {
      going.stop();
      Object.assign(state, changes);
      renew();
      to(state.depth);
    }

    const cloud = choice("points: ", { noise: "noise, sent forwards", ring: "the ring, sent back" },
      (value) => start({ cloud: value, depth: value === "noise" ? 0 : last }));
    const bar = element("div", { class: "lab-bar", role: "group", "aria-label": "Depth" },
      button("▶ Forwards", () => play(last)), button("◀ Back", () => play(0)), cloud.node,
      button("New noise", () => start({ seed: state.seed + 1 })),
      button("Reset", () => {
        cloud.select.value = "noise";
        start({ depth: 0, seed: 0, cloud: "noise" });
      }));
    const key = colourKey(
      `Purple: squeezed, so denser. Green: stretched, so thinner. Full colour at ${FULL} nats. Each `
      + "coupling moves all points in one direction; between two of them the figure goes straight.");
    start({});
    const row = element("div", { class: "live-planes live-picture" }, ...planes.map((p) => p.node));
    return { nodes: [bar, depth.node, row, key], draw, state, flows, grids, planes, to };
  }

  mount("layers", layers);
})((globalThis.FlowVAE = globalThis.FlowVAE || {}));
