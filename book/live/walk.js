// The way of one latent under refinement, step by step, with what it gains and how far it goes.
(function (FlowVAE) {
  "use strict";

  const { Tensor, Random, CouplingFlow, DENSITIES, standardNormal, mlp, trained } = FlowVAE;
  const { add, mul, softplus, columns, gaussianMixtureLogProb } = FlowVAE;
  const { Way, drawWay, wayCharts, wayControls } = FlowVAE;
  const { element, button, colourKey, titledPlane, onDrag, choice, mount } = FlowVAE;

  const FLOW = { transforms: 4, hidden: [32, 32], kind: "spline" };
  // Nats for a nat of the trained reward's log-probability, as in the chapter.
  const WEIGHT = 3;
  // Of a painted reward: nats, the width of a spot, and how many spots there may be.
  const PAINTED = 2, SPOT = 0.35, MOST = 300;
  const EXTENT = 3.2, STEPS = 61, FAR = 30;
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
    const state = { ...OPENING, spots: [] };
    const plane = titledPlane("z", "latent plane: click a start",
      "Latent plane. Click a start, or move it with the arrow keys. While a reward is painted, the arrow "
      + "keys move the brush, and space paints.", () => draw());
    plane.extent = EXTENT;
    const grid = plane.grid(STEPS), seen = new Map();
    const charts = wayCharts(() => draw());

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

    function begin() {
      if (!painting()) plane.at = [...state.start];
      return new Way({ ...state, logProb: priors[state.prior], reward: rewards[state.reward], far: FAR });
    }

    function draw() {
      if (!state.way) return;
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
      plane.names("z⁽¹⁾", "z⁽²⁾");
      drawWay(plane, state.way);
      charts.draw(state.way, state.held);
    }

    function reset() {
      for (const [key, { select }] of Object.entries(selects)) select.value = OPENING[key];
      brush.select.value = "paint";
      brush.node.hidden = wipe.hidden = true;
      paint([]);
    }

    const { bar, sliders, restart, step, show, change } = wayControls(say,
      { label: "Refinement", state, opening: OPENING, begin, draw, reset });
    onDrag(plane, (x, y, kind) => {
      if (!painting()) state.start = [x, y];
      else if (kind !== "key" && state.spots.length < MOST) paint([...state.spots, [x, y]]);
    }, (dragged, byKey) => {
      // A brush that is moved by keys paints nothing yet.
      if (byKey && painting()) draw();
      else show(dragged);
    });
    const selects = {
      prior: choice("prior: ", {
        flow: "spline flow", mixture: "mixture of eight", normal: "N(0, I)",
      }, (prior) => change({ prior })),
      reward: choice("reward: ", {
        none: "none", right: "2 z⁽¹⁾: to the right", group: "trained: the group at the top",
        painted: "painted by you",
      }, (reward) => {
        brush.node.hidden = wipe.hidden = reward !== "painted";
        change({ reward });
        if (reward === "painted" && !state.spots.length) say("Drag over the plane to paint a reward.");
      }),
    };
    const brush = choice("drag: ", { paint: "paints the reward", start: "moves the start" }, () => {
      plane.at = [...state.start];
      draw();
    });
    const wipe = button("Clear the paint", () => {
      paint([]);
      change();
    });
    brush.node.hidden = wipe.hidden = true;
    const settings = element("div", { class: "lab-bar" },
      selects.prior.node, selects.reward.node, brush.node, wipe, ...sliders);
    const key = colourKey(
      "Black: the latent, with a dot a step from its start in grey. Blue: the prior, with lines around half "
      + "of it and 95 %. Dashed green: nine tenths of the prior times the exponential of the reward. U is "
      + "log p(z) and the reward, less the anchor's term: at τ = 0 a step that would lower it is halved; "
      + "above, noise is added.");
    change();
    const row = element("div", { class: "live-planes live-pair live-picture" }, plane.node,
      element("div", {}, ...charts.nodes));
    const nodes = [bar, settings, row, key];
    return {
      nodes, draw, state, priors, rewards, planes: [plane], charts: charts.charts, restart, step, paint,
    };
  }

  mount("walk", walk);
})((globalThis.FlowVAE = globalThis.FlowVAE || {}));
