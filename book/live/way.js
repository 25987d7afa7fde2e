// One latent's way under refinement: its steps, the button that takes them, the curves of what it gains.
(function (FlowVAE) {
  "use strict";

  const { Tensor, Random, objective, climb, wander } = FlowVAE;
  const { element, number, calm, Chart, button, slider } = FlowVAE;

  const LONGEST = 300, AT_ONCE = 60;
  // Nats that the axis has before the first step: the start may be dragged up and down a hill.
  const ROOM = 12;

  class Way {
    // No step leads further from the origin than `far`.
    constructor({ logProb, reward, start, lr, anchor, temperature, seed, far }) {
      const from = Tensor.from([start]);
      this.goal = objective({ logProb, reward, anchor, start: from });
      Object.assign(this, { reward, start, lr, anchor, temperature, far, end: "", rates: [lr] });
      this.random = new Random(seed);
      this.path = [this.goal.at(from)];
    }

    // One step, if there is one; otherwise `end` says why not.
    step() {
      const here = this.path.at(-1);
      this.end = "";
      if (this.path.length > LONGEST) {
        this.end = " That is as far as this figure goes.";
      } else if (this.temperature > 0) {
        const noise = this.random.normals(1, here.z.cols);
        this.path.push(wander(this.goal, here, this.lr, this.temperature, noise));
      } else {
        const next = climb(this.goal, here, this.rates, this.lr);
        this.rates = next.rates;
        this.path.push(next.here);
      }
      const { z, value, gradient } = this.path.at(-1);
      const finite = [value, gradient].every(({ data }) => data.every(Number.isFinite));
      if (!finite || Math.hypot(...z.data) > this.far) {
        this.path.pop();
        this.end = " The next step leads far away: choose a smaller η.";
      }
      return !this.end;
    }

    distance({ z }) {
      return Math.hypot(...z.data.map((v, d) => v - this.start[d]));
    }

    values() {
      const first = this.path[0], last = this.path.at(-1);
      const [a, b] = [first, last].map((point) => point.logProb.data[0]);
      if (first === last) return `log p(z) is ${number(a)}`;
      const [r, s] = [first, last].map((point) => point.reward.data[0]);
      const reward = this.reward ? `, the reward from ${number(r)} to ${number(s)}` : "";
      return `log p(z) from ${number(a)} to ${number(b)}${reward}, distance ${number(this.distance(last))}`;
    }

    words() {
      const steps = this.path.length - 1;
      const when = steps ? `After ${steps} step${steps === 1 ? "" : "s"}` : "At the start";
      return `${when}: ${this.values()}.${this.end}`;
    }
  }

  function drawWay(plane, { path, start }) {
    plane.line(path.map(({ z }) => plane.place(...z.data)), { width: 1.6 });
    path.forEach(({ z }, i) => i && plane.points(z, "ink", { size: 2.2 }));
    plane.spot(start, "quiet");
    plane.spot(path.at(-1).z.data, "ink");
  }

  // A button that takes a step a frame until it is pressed again; where motion is not wanted, all at
  // once. `tell(true)` is called on the way, `tell()` when it rests.
  function runButton(step, draw, tell) {
    let running = false;
    const show = (now) => {
      running = now;
      node.textContent = now ? "❚❚ Pause" : "▶ Run";
    };
    const node = button("▶ Run", () => {
      if (running) {
        show(false);
        tell();
        return;
      }
      show(true);
      let left = AT_ONCE;
      const frame = () => {
        if (!running) return;
        do {
          left -= 1;
          if (!step()) left = 0;
        } while (left > 0 && calm());
        draw();
        tell(true);
        if (left > 0) {
          requestAnimationFrame(frame);
        } else {
          show(false);
          tell();
        }
      };
      requestAnimationFrame(frame);
    });
    return { node, stop: () => show(false) };
  }

  // Two curves over the steps, in nats and of the distance.
  function wayCharts(redraw) {
    const charts = ["of log p(z), the reward and their sum less the anchor", "of the distance"]
      .map((what) => Object.assign(
        new Chart(element("canvas", { class: "live-chart", role: "img" }), redraw), { what }));

    function draw(way, held) {
      const { path, reward, anchor } = way;
      const last = Math.max(30, 30 * Math.ceil((path.length - 1) / 30));
      const curve = (label, colour, value, dash) =>
        ({ label, colour, dash, points: path.map((point, i) => [i, value(point)]) });
      const nats = [curve("log p", "prior", (point) => point.logProb.data[0])];
      if (reward) nats.push(curve("reward", "likelihood", (point) => point.reward.data[0]));
      if (reward || anchor) nats.push(curve("U", "ink", (point) => point.value.data[0], [5, 3]));
      const axis = { last, across: "steps", skip: 0 }, span = path.length > 1 ? 1 : ROOM;
      const names = reward ? "log p(z), reward and U" : `log p(z)${nats.length > 1 ? " and U" : ""}`;
      charts[0].draw({ title: `${names} (nats)`, lines: nats, held, span, ...axis });
      charts[1].draw({
        title: "distance from the start",
        lines: [curve("", "ink", (point) => way.distance(point))], least: 0, ...axis,
      });
      charts.forEach(({ canvas, what }) => canvas.setAttribute("aria-label",
        `Curves over the steps ${what}. ${way.values()}.`));
    }

    return { nodes: charts.map(({ canvas }) => canvas), draw, charts };
  }

  // Of step, anchor and temperature, with what they are at first; `step` is the range of the first.
  function waySliders(opening, change, step = { min: 0.005, max: 0.2, step: 0.005 }) {
    const fine = (value) => number(value, value && value < 0.1 ? 3 : 2);
    const knob = (name, key, range) =>
      slider(name, { ...range, value: opening[key], words: fine },
        (value) => change({ [key]: value }));
    const knobs = {
      lr: knob("step η", "lr", step),
      anchor: knob("anchor κ", "anchor", { min: 0, max: 10, step: 0.1 }),
      temperature: knob("temperature τ", "temperature", { min: 0, max: 2, step: 0.1 }),
    };
    return {
      nodes: Object.values(knobs).map(({ node }) => node),
      reset: () => Object.entries(knobs).forEach(([key, { set }]) => set(opening[key])),
    };
  }

  // What both figures have of a way beside their planes: `begin()` makes it from `state`. Its scales are
  // held while its start is dragged.
  function wayControls(say, { label, state, opening, begin, draw, reset = () => {}, range }) {
    const step = () => state.way.step();
    const tell = (quietly) => say(state.way.words(), quietly);

    // From the start again.
    function restart(changes = {}, held = false) {
      Object.assign(state, changes, { held });
      go.stop();
      state.way = begin();
      draw();
    }

    const show = (dragged) => {
      restart({}, dragged);
      tell(dragged);
    };
    const change = (changes = {}) => {
      restart(changes);
      tell();
    };
    const go = runButton(step, draw, tell), sliders = waySliders(opening, change, range);
    const bar = element("div", { class: "lab-bar", role: "group", "aria-label": label },
      button("Step", () => {
        go.stop();
        step();
        draw();
        tell();
      }), go.node,
      button("Back to the start", () => change()),
      button("New noise", () => change({ seed: state.seed + 1 })),
      button("Reset", () => {
        sliders.reset();
        reset();
        change({ ...opening });
      }));
    return { bar, sliders: sliders.nodes, restart, step, show, change };
  }

  Object.assign(FlowVAE, { Way, drawWay, wayCharts, wayControls });
})((globalThis.FlowVAE = globalThis.FlowVAE || {}));
