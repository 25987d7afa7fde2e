// A latent of MNIST under refinement, and the digit that it decodes to after each step.
(function (FlowVAE) {
  "use strict";

  const { Tensor, Random, GaussianMixture, mlp, trained, Way, drawWay, wayCharts, wayControls } = FlowVAE;
  const { element, colourKey, titledPlane, onDrag, mount } = FlowVAE;

  const LATENT = 2, COMPONENTS = 64, HIDDEN = [64, 128], PIXELS = 28 * 28;
  const EXTENT = 12, STEPS = 81, TILES = 19, FAR = 100, ALONG = 12, ROW = 6;
  // The plane is wide, and the density flat: a step is longer than in the figure of the ring.
  const LR = { min: 0.05, max: 1, step: 0.05 };
  const OPENING = { start: [0, 0], lr: 0.3, anchor: 0, temperature: 0, seed: 0 };

  function modelOf(figure) {
    const fill = trained(figure), random = new Random(0);
    const prior = fill("prior", new GaussianMixture(LATENT, COMPONENTS, random));
    return { prior, net: fill("likelihood", mlp(LATENT, HIDDEN, PIXELS, random)) };
  }

  function mnist(say) {
    const model = modelOf("mnist"), prior = model.prior.forward();
    const state = { ...OPENING };
    // The mean of p(x | z): each pixel's probability to be ink.
    const decode = (z) => model.net.forward(z).data.map((logit) => 1 / (1 + Math.exp(-logit)));
    const plane = titledPlane("z", "latent plane: click a start",
      "Latent plane of digits. Click a start, or move it with the arrow keys.", () => draw());
    plane.extent = EXTENT;
    const sheet = titledPlane("", "what the latent decodes to", "Decoded digits.", () => draw(),
      { keys: false });
    const charts = wayCharts(() => draw());
    const heights = prior.logProb(plane.grid(STEPS)).data;
    const tiles = plane.grid(TILES), mosaic = new Tensor(tiles.rows, PIXELS, decode(tiles));

    function begin() {
      plane.at = [...state.start];
      return new Way({ ...state, logProb: (z) => prior.logProb(z), reward: null, far: FAR });
    }

    function drawPlane(way) {
      plane.clear();
      plane.still(() => {
        const size = plane.width / TILES;
        for (let n = 0; n < tiles.rows; n++) {
          const [x, y] = plane.place(...tiles.row(n));
          plane.picture(mosaic.row(n), [x - size / 2, y - size / 2], size, { alpha: 0.35 });
        }
        plane.density(heights, EXTENT, "prior");
      });
      plane.names("z⁽¹⁾", "z⁽²⁾");
      drawWay(plane, way);
    }

    // The first and the last, and below them some on the way.
    function drawSheet({ path }) {
      sheet.clear();
      const half = sheet.width / 2, large = 0.86 * half, small = (0.86 * sheet.width) / ROW;
      const show = ({ z }, at, size) => sheet.tile(decode(z), at, size);
      const last = path.length - 1, top = 0.12 * sheet.height, below = top + large + 34;
      [[0, "at the start"], [last, last ? `after ${last}` : "now"]].forEach(([i, name], side) => {
        const left = side * half + (half - large) / 2;
        sheet.text(name, left + large / 2, top - 12, { align: "center", bold: true });
        show(path[i], [left, top], large);
      });
      if (!last) return;
      sheet.text("on the way", 0.07 * half, below - 12);
      for (let n = 0; n < ALONG; n++) {
        const i = Math.round((n * last) / (ALONG - 1));
        const left = (((n % ROW) + 0.5) * sheet.width) / ROW - small / 2;
        show(path[i], [left, below + Math.floor(n / ROW) * 1.12 * small], small);
      }
    }

    function draw() {
      if (!state.way) return;
      drawPlane(state.way);
      drawSheet(state.way);
      charts.draw(state.way, state.held);
      const steps = state.way.path.length - 1;
      sheet.canvas.setAttribute("aria-label", steps
        ? `Decoded digits: at the start, after ${steps} steps, and ${ALONG} on the way.`
        : "Decoded digits: at the start.");
    }

    const { bar, sliders, restart, step, show, change } = wayControls(say,
      { label: "Refinement of a digit", state, opening: OPENING, begin, draw, range: LR });
    onDrag(plane, (x, y) => { state.start = [x, y]; }, show);
    const settings = element("div", { class: "lab-bar" }, ...sliders);
    const key = colourKey(
      "Black: the latent, with a dot a step from its start in grey. Blue: the prior, with lines around half "
      + "of it and 95 %. Behind it, what the decoder makes of each place. A digit is the mean of p(x | z): "
      + "each pixel's probability of ink. U is log p(z) less the anchor's term.");
    change();
    const row = element("div", { class: "live-planes live-pair live-picture" }, plane.node, sheet.node);
    const below = element("div", { class: "live-planes live-pair" }, ...charts.nodes);
    return {
      nodes: [bar, settings, row, key, below], draw, state, model, decode, planes: [plane, sheet],
      charts: charts.charts, restart, step,
    };
  }

  mount("mnist", mnist);
})((globalThis.FlowVAE = globalThis.FlowVAE || {}));
