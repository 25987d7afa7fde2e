// The true posterior of a point of the plane, and two approximations: a Gaussian and a flow.
(function (FlowVAE) {
  "use strict";

  const { Tensor, Random, Normal, GaussianPosterior, FlowPosterior, CouplingFlow } = FlowVAE;
  const { GaussianLikelihood, DATA_SETS, standardNormal, mlp, trained } = FlowVAE;
  const { element, number, button, colourKey, titledPlane, onDrag, table, mount } = FlowVAE;

  const LATENT = 2, HIDDEN = [64, 64], FLOW = { context: LATENT, transforms: 4, hidden: [32] };
  // The square on which densities are summed, and the points along its side: while something is
  // dragged, and at rest.
  const EXTENT = 4, MOVING = 43, RESTING = 65;

  function modelOf(figure) {
    const fill = trained(figure), random = new Random(0), encoder = () =>
      mlp(2, HIDDEN, 2 * LATENT, random);
    return {
      likelihood: fill("likelihood",
        new GaussianLikelihood(mlp(LATENT, HIDDEN, 2, random), 2)),
      gaussian: fill("gaussian", new GaussianPosterior(encoder())),
      flow: fill("flow", new FlowPosterior(encoder(), new CouplingFlow(LATENT, FLOW, random))),
    };
  }

  // For any x, what a sum over the points `z` says, each of which stands for an area `log(area)`.
  function truth({ likelihood }, z, logArea) {
    const logPrior = standardNormal(LATENT).logProb(z).data;
    const decoded = likelihood.forward(z);
    return (x) => {
      // Symmetric in its two arguments, x and the mean.
      const p = new Normal(Tensor.from([x]), decoded.logScale);
      const logJoint = p.logProb(decoded.loc).data.map((value, i) => value + logPrior[i]);
      const top = Math.max(...logJoint);
      const sum = logJoint.reduce((total, value) => total + Math.exp(value - top), 0);
      const logEvidence = top + Math.log(sum) + logArea;
      return { logEvidence, logPosterior: logJoint.map((value) => value - logEvidence) };
    };
  }

  // KL(q ‖ p) in nats, both given by their logarithms at the same points.
  function divergence(logQ, logP, logArea) {
    let sum = 0;
    for (let i = 0; i < logQ.length; i++) {
      // So little that even an infinite ratio would not count.
      if (logQ[i] > -60) sum += Math.exp(logQ[i]) * (logQ[i] - logP[i]);
    }
    return sum * Math.exp(logArea);
  }

  // What was found for an x, which stays while the mean is moved by hand.
  function kept(find) {
    let last = null, found;
    return (x) => {
      if (x !== last) [last, found] = [x, find(x)];
      return found;
    };
  }

  const centre = (group) =>
    [2 * Math.cos((Math.PI * group) / 4), 2 * Math.sin((Math.PI * group) / 4)];

  function posteriors(say) {
    const model = modelOf("posteriors"), data = DATA_SETS.rings(400, new Random(0));
    const points = titledPlane("x", "data plane: the point x",
      "Data plane. Drag the point x, or move it with the arrow keys.", () => draw());
    const planes = [
      ["Gaussian", "Latent plane with the Gaussian. Drag its mean, or move it with the arrow keys."],
      ["flow", "Latent plane with the flow. It follows x."],
    ].map(([name, label]) => titledPlane("z", name, label, () => draw()));
    planes.forEach((plane) => { plane.extent = 3.2; });
    const [left] = planes;
    const [moving, resting] = [MOVING, RESTING].map((steps) => {
      const z = left.grid(steps, EXTENT), logArea = 2 * Math.log((2 * EXTENT) / steps);
      const flow = (x) => model.flow.forward(Tensor.from([x])).logProb(z).data;
      return { z, logArea, posterior: kept(truth(model, z, logArea)), flow: kept(flow) };
    });

    const state = { group: 3, x: centre(3), hand: null };
    const told = table("nats", ["KL(q ‖ p(z | x))", "ELBO", "log p(x)"], ["Gaussian", "flow"]);

    // What is known of the x and the mean that are shown.
    function compute({ z, logArea, posterior, flow }) {
      const { logEvidence, logPosterior } = posterior(state.x);
      const own = model.gaussian.forward(Tensor.from([state.x]));
      const loc = state.hand ? Tensor.from([state.hand]) : own.loc;
      const logQ = [new Normal(loc, own.logScale).logProb(z).data, flow(state.x)];
      const kl = logQ.map((values) => divergence(values, logPosterior, logArea));
      return { loc: [...loc.data], logEvidence, logPosterior, logQ, kl };
    }

    function update(dragged = false) {
      state.shown = compute(dragged ? moving : resting);
      left.at = state.shown.loc;
      points.at = state.x;
      const { kl, logEvidence } = state.shown;
      kl.forEach((value, i) =>
        told.fill(i, [value, logEvidence - value, logEvidence].map((nats) => number(nats))));
      planes.forEach(({ heading }, i) => {
        // In one line, so that nothing jumps: the table says which KL.
        const whose = !i && state.hand ? "moved" : ["Gaussian", "flow"][i];
        heading.textContent = `${whose}: KL ${number(kl[i])} nats`;
      });
      draw();
      tell(dragged);
    }

    function tell(quietly) {
      const { kl, logEvidence } = state.shown, [a, b] = state.x.map((v) => number(v, 1));
      const whose = state.hand ? "the Gaussian with its mean moved by hand" : "the Gaussian";
      say(`At x = (${a}, ${b}), where log p(x) is ${number(logEvidence)} nats, KL(q ‖ p(z | x)) is `
        + `${number(kl[0])} for ${whose} and ${number(kl[1])} for the flow.`, quietly);
    }

    function draw() {
      if (!state.shown) return;
      const { logPosterior, logQ, loc } = state.shown;
      points.clear();
      points.axes();
      points.points(data, "data", { size: 1.5, alpha: 0.35 });
      points.names();
      points.spot(state.x, "posterior");
      planes.forEach((plane, i) => {
        plane.clear();
        plane.axes();
        plane.shade(logPosterior, EXTENT, "posterior", 255);
        const dash = i ? [] : [5, 4];
        plane.outline(logPosterior, EXTENT, 0.9, { colour: "posterior", width: 1 });
        plane.outline(logQ[i], EXTENT, 0.9, { width: 2, dash });
        plane.outline(logQ[i], EXTENT, 0.5, { width: 1, dash });
        plane.names();
      });
      left.spot(loc, "ink");
    }

    onDrag(points, (a, b) => Object.assign(state, { x: [a, b], hand: null }), update);
    onDrag(left, (a, b) => { state.hand = [a, b]; }, update);
    const go = (group) => {
      Object.assign(state, { group, x: centre(group), hand: null });
      update();
    };
    const bar = element("div", { class: "lab-bar", role: "group", "aria-label": "The point x" },
      button("Next group", () => go((state.group + 1) % 8)),
      button("The encoder's mean", () => {
        state.hand = null;
        update();
      }),
      button("Reset", () => go(3)));
    update();
    const key = colourKey(
      "Orange: the true posterior, nine tenths of it within its line. Black: the approximation, nine "
      + "tenths within the thick line and half within the thin one.");
    points.node.classList.add("live-wide");
    const row = element("div", { class: "live-planes live-picture" },
      points.node, ...planes.map((p) => p.node));
    return { nodes: [bar, row, key, told.node], draw, update, state, model, planes: [points, ...planes] };
  }

  mount("posteriors", posteriors);
})((globalThis.FlowVAE = globalThis.FlowVAE || {}));
