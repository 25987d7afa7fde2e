// The VAE lab: one or two VAEs that train in the page, on the same data and with the same noise.
(function (FlowVAE) {
  "use strict";

  const { Tensor, Random, Normal, Mixture, Training, SCHEDULE, DATA_SETS, DENSITIES } = FlowVAE;
  const { build, painted, element, number, calm, Plane, Chart, mean } = FlowVAE;

  const NAMES = {
    data: {
      rings: "ring of eight", moons: "two moons", spirals: "spirals", pinwheel: "pinwheel",
      checkerboard: "checkerboard", painted: "paint your own",
    },
    prior: {
      gaussian: "N(0, I)", mixture: "mixture", vampprior: "VampPrior", flow: "flow",
      spline: "spline flow",
    },
    posterior: { gaussian: "Gaussian", flow: "flow" },
  };
  const BETAS = [0.1, 0.25, 0.5, 1, 2, 4, 8];
  const MOST_K = 100;
  const TRAIN = 2000, VALIDATION = 512, SHOWN = 400, EVERY = 25;
  // Milliseconds: of training within a frame, and between two things shown.
  const BUDGET = 12, BETWEEN = 12, BETWEEN_CALM = 1000;

  const DEFAULT = { prior: "gaussian", posterior: "gaussian", beta: 1, k: 50 };
  const OPENING = { data: "rings", seed: 0, models: [DEFAULT, { ...DEFAULT, prior: "vampprior" }] };

  // --- settings and the address ----------------------------------------------------------------

  function sound(model) {
    // The flow of each pseudo-input would have to be inverted at each code: too slow for a page.
    const bent = model.prior !== "vampprior" && model.posterior === "flow";
    return { ...model, posterior: bent ? "flow" : "gaussian" };
  }

  // `#data=rings&seed=0&prior=gaussian&…&prior2=vampprior&…`; what makes no sense is left out.
  function read(address) {
    const given = new URLSearchParams(address.replace(/^#/, ""));
    if (!given.has("data") && !given.has("prior")) return OPENING;
    const among = (key, names, otherwise) =>
      Object.hasOwn(names, given.get(key) ?? "") ? given.get(key) : otherwise;
    const whole = (key, least, most, otherwise) => {
      const value = /^\d+$/.test(given.get(key)) ? Number(given.get(key)) : -1;
      return value >= least && value <= most ? value : otherwise;
    };
    const model = (suffix) => sound({
      prior: among(`prior${suffix}`, NAMES.prior, DEFAULT.prior),
      posterior: among(`posterior${suffix}`, NAMES.posterior, DEFAULT.posterior),
      beta: BETAS.find((beta) => beta === Number(given.get(`beta${suffix}`))) ?? DEFAULT.beta,
      k: whole(`k${suffix}`, 1, MOST_K, DEFAULT.k),
    });
    return {
      data: among("data", NAMES.data, "rings"),
      seed: whole("seed", 0, 999999, 0),
      models: given.has("prior2") ? [model(""), model("2")] : [model("")],
    };
  }

  function written({ data, seed, models }, spots) {
    const parts = models.flatMap((model, i) =>
      Object.entries(model).map(([key, value]) => [`${key}${i ? 2 : ""}`, value]));
    const paint = data === "painted" && spots.length ? [["paint", spotsWritten(spots)]] : [];
    return `#${new URLSearchParams([["data", data], ["seed", seed], ...parts, ...paint])}`;
  }

  // Painted spots in the address: a byte a coordinate, in the letters that an address may have.
  const IN_ADDRESS = 400, EDGE = 3.2;

  function spotsWritten(spots) {
    const every = Math.ceil(spots.length / IN_ADDRESS);
    const bytes = spots.filter((_, i) => i % every === 0).flat().map((v) =>
      Math.round(((Math.max(-EDGE, Math.min(EDGE, v)) + EDGE) / (2 * EDGE)) * 255));
    return btoa(String.fromCharCode(...bytes)).replace(/[+/=]/g, (c) => ({ "+": "-", "/": "_" })[c] || "");
  }

  function spotsRead(address) {
    const given = new URLSearchParams(address.replace(/^#/, "")).get("paint") || "";
    if (!/^[\w-]+$/.test(given) || given.length % 4 === 1) return [];
    const bytes = atob(given.replace(/-/g, "+").replace(/_/g, "/"));
    const at = (i) => (bytes.charCodeAt(i) / 255) * 2 * EDGE - EDGE;
    const count = Math.min(IN_ADDRESS, bytes.length >> 1);
    return Array.from({ length: count }, (_, n) => [at(2 * n), at(2 * n + 1)]);
  }

  const hasK = ({ prior }) => prior === "mixture" || prior === "vampprior";

  function described(model) {
    const k = hasK(model) ? `, K = ${model.k}` : "";
    const q = model.posterior === "flow" ? ", flow posterior" : "";
    return `${NAMES.prior[model.prior]}${k}${q}${model.beta === 1 ? "" : `, β = ${model.beta}`}`;
  }

  // --- one model: its settings, its training, its two planes -------------------------------------

  class Model {
    constructor(lab, index) {
      this.lab = lab;
      this.letter = "AB"[index];
      this.index = index;
      this.latents = this.plane("z", "latent");
      this.points = this.plane("x", "data");
      this.score = element("p", { class: "lab-score" });
      this.form = element("fieldset", { class: "lab-settings" });
      this.node = element("section", { class: "lab-model", "aria-label": `Model ${this.letter}` },
        this.form,
        element("div", { class: "lab-planes" }, this.latents.canvas, this.points.canvas, this.score));
      this.listen();
    }

    plane(name, kind) {
      const canvas = element("canvas", {
        tabindex: "0", role: "application", class: `lab-${kind}`,
        "aria-label": kind === "latent"
          ? `Latent plane of ${this.letter}. Arrow keys move a code, which is decoded.`
          : `Data plane of ${this.letter}. Arrow keys move a point, which is encoded; space paints.`,
      });
      const plane = new Plane(canvas, name, () => this.draw());
      return plane;
    }

    listen() {
      const show = (from, probe) => (x, y, kind) => {
        if (kind === "release") return;
        this.probe = kind === "leave" ? null : probe(Tensor.from([[x, y]]));
        if (this.probe) this.lab.say(this.probe.words, document.activeElement === from.canvas);
        this.draw();
      };
      const told = (t) => `(${number(t.data[0], 1)}, ${number(t.data[1], 1)})`;
      this.latents.listen(show(this.latents, (z) => {
        const x = this.vae.likelihood.forward(z).loc;
        return { z, x, words: `${this.letter}: z = ${told(z)} decodes to x = ${told(x)}` };
      }));
      const encode = show(this.points, (x) => {
        const many = x.rowsAt(Array(60).fill(0));
        const z = this.vae.posterior.forward(many).sample(this.lab.noise.posterior.part(0, 60));
        return { z, x, words: `${this.letter}: x = ${told(x)} has the codes shown by the cloud` };
      });
      this.points.listen((x, y, kind) => {
        const paints = this.lab.settings.data === "painted";
        if (paints && kind === "press") this.lab.paint(x, y);
        else if (paints && kind === "release") this.lab.painted();
        else encode(x, y, kind);
      });
    }

    // Settings in, controls and a new training out.
    start(settings) {
      this.settings = settings;
      this.controls();
      const { data, seed } = this.lab;
      this.vae = build(settings, data.train, seed);
      this.training = new Training(this.vae, data, { beta: settings.beta, seed });
      this.training.evaluate();
      this.probe = null;
      this.latents.extent = 3.4;
      this.inHole = null;
      this.rest();
    }

    controls() {
      const { prior, posterior, beta, k } = this.settings;
      const change = (key, value) => this.lab.change(this.index, { ...this.settings, [key]: value });
      const name = (key) => `${key}-${this.letter}`;
      const select = (key, label, names, now, parse = String) => element("label", {}, `${label} `,
        element("select", { name: name(key), onchange: (e) => change(key, parse(e.target.value)) },
          ...names.map(([value, words]) => element("option", {
            value, selected: String(value) === String(now),
            disabled: key === "posterior" && value === "flow" && prior === "vampprior",
          }, words))));
      const focused = this.form.contains(document.activeElement) && document.activeElement.name;
      this.form.replaceChildren(
        element("legend", {}, this.letter),
        select("prior", "prior", Object.entries(NAMES.prior), prior),
        ...(hasK(this.settings) ? [element("label", {}, "K ", element("input", {
          type: "number", min: 1, max: MOST_K, value: k, name: name("k"),
          onchange: (e) => change("k",
            Math.max(1, Math.min(MOST_K, Math.round(Number(e.target.value)) || 1))),
        }))] : []),
        select("posterior", "posterior", Object.entries(NAMES.posterior), posterior),
        select("beta", "β", BETAS.map((b) => [b, String(b)]), beta, Number),
      );
      if (focused) this.form.querySelector(`[name="${focused}"]`)?.focus();
    }

    // What the planes show: codes, samples, the prior's density. `steps` squares along each axis.
    look(steps = 40) {
      const { noise, data } = this.lab, { vae } = this, prior = vae.prior.forward();
      this.codes = vae.posterior.forward(data.shown).sample(noise.posterior);
      this.draws = prior.sample(noise.prior, noise.choice);
      this.samples = vae.likelihood.forward(this.draws).sample(noise.likelihood);
      // The plane widens at once and narrows slowly, so that it does not tremble.
      const far = Array.from(this.codes.data, Math.abs).sort((a, b) => a - b);
      const wanted = Math.max(3.4, 1.15 * far[Math.floor(0.995 * far.length)]);
      const { extent } = this.latents;
      this.latents.extent = wanted > extent ? wanted : Math.max(wanted, 0.97 * extent);
      this.shadedExtent = this.latents.extent;
      this.density = prior.logProb(this.latents.grid(steps)).data;
      this.draw();
    }

    // Which samples lie in a hole: where the density of codes is lower than at 98 of 100 codes.
    // Half of the codes make up that density, the others say what is low.
    findHoles() {
      const half = SHOWN / 2, [some, others] = [this.codes.part(0, half), this.codes.part(half)];
      const spread = Math.sqrt(this.codes.data.reduce((s, v) => s + v * v, 0) / (2 * SHOWN));
      const width = new Tensor(half, 2, new Float64Array(SHOWN).fill(Math.log(0.17 * spread)));
      const density = new Mixture(new Normal(some, width), new Tensor(1, half));
      const low = density.logProb(others).data.slice().sort()[Math.floor(0.02 * half)];
      this.inHole = Array.from(density.logProb(this.draws).data, (value) => value < low);
    }

    // Everything at once and finely, when nothing moves.
    rest() {
      this.look(80);
      this.findHoles();
      this.draw();
    }

    draw() {
      if (!this.inHole) return;
      const indices = [...this.inHole.keys()];
      const hollow = indices.filter((i) => this.inHole[i]);
      const solid = indices.filter((i) => !this.inHole[i]);
      const { latents, points, lab } = this, { prior } = this.vae;
      latents.clear();
      latents.axes();
      latents.density(this.density, this.shadedExtent, "prior");
      latents.points(this.codes, "posterior", { size: 1.5, alpha: 0.75 });
      latents.points(this.draws.rowsAt(hollow), "likelihood", { size: 2.8, mark: "ring" });
      latents.names();
      points.clear();
      points.axes();
      const painting = lab.settings.data === "painted";
      points.points(lab.data.shown, "data", { size: 1.5, alpha: painting ? 0.3 : 0.45 });
      if (painting) points.points(lab.spotsShown(), "data", { size: 2.5, alpha: 0.6 });
      points.points(this.samples.rowsAt(solid), "likelihood", { size: 1.9, alpha: 0.8 });
      points.points(this.samples.rowsAt(hollow), "likelihood", { size: 2.8, mark: "ring" });
      if (prior.pseudoInputs) {
        points.points(prior.pseudoInputs, "paper", { size: 4.6, alpha: 0.8 });
        points.points(prior.pseudoInputs, "prior", { size: 4, mark: "ring" });
      }
      points.names();
      if (this.probe) {
        const { z, x } = this.probe;
        if (z.rows === 1) latents.spot(z.data, "ink");
        else latents.points(z, "ink", { size: 2 });
        points.spot(x.data, "ink");
      }
      this.tell();
    }

    tell() {
      this.score.textContent = `${this.hollow()} % in holes`;
    }

    // Of the prior's samples, in per cent.
    hollow() {
      return Math.round((100 * this.inHole.filter(Boolean).length) / SHOWN);
    }
  }

  // --- the lab ---------------------------------------------------------------------------------

  class Lab {
    constructor(root) {
      this.root = root;
      this.running = false;
      this.spots = spotsRead(location.hash);
      this.status = element("p", { class: "lab-status", role: "status", "aria-live": "polite" });
      this.bounds = element("canvas", { class: "lab-chart", role: "img" });
      this.terms = element("canvas", { class: "lab-chart", role: "img" });
      this.charts = [this.bounds, this.terms].map((canvas) =>
        new Chart(canvas, () => this.drawCharts()));
      this.rows = element("div", { class: "lab-models" });
      this.models = [];
      this.toolbar();
      this.legends();
      root.replaceChildren(this.bar, this.status,
        element("div", { class: "lab-body" },
          element("div", {}, this.legend, this.rows),
          element("div", { class: "lab-charts" }, this.bounds, this.terms)),
        this.tries());
      new MutationObserver(() => this.draw()).observe(
        document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
      addEventListener("hashchange", () => {
        if (location.hash === written(this.settings, this.spots)) return;
        this.spots = spotsRead(location.hash);
        this.apply(read(location.hash));
      });
      this.apply(read(location.hash), "Press Train and watch prior and codes meet, or miss each other.");
    }

    toolbar() {
      const button = (words, does, name) =>
        element("button", { type: "button", class: `lab-${name}`, onclick: does }, words);
      this.go = button("▶ Train", () => this.toggle(), "go");
      this.one = button("Step", () => this.stepOnce(), "one");
      this.choice = element("select", {
        name: "data", onchange: (e) => this.apply({ ...this.settings, data: e.target.value }),
      }, ...Object.entries(NAMES.data).map(([value, words]) => element("option", { value }, words)));
      this.both = element("input", {
        type: "checkbox", name: "compare", onchange: () => this.compare(this.both.checked),
      });
      this.wipe = button("Clear the paint", () => {
        this.spots = [];
        this.apply(this.settings);
      }, "wipe");
      this.count = element("span", { class: "lab-count" });
      this.bar = element("div", { class: "lab-bar", role: "group", "aria-label": "Training" },
        this.go, this.one,
        button("Reset", () => this.apply(this.settings, "Reset: as at step 0."), "reset"),
        button("New data and noise", () =>
          this.apply({ ...this.settings, seed: this.settings.seed + 1 },
            "New data, weights and noise."), "noise"),
        element("label", {}, "data ", this.choice), this.wipe,
        element("label", {}, this.both, " compare two"), this.count);
    }

    // One for both models: what stands in the left planes, and what in the right ones.
    legends() {
      const entry = (colour, mark, words) => element("li", { class: `lab-${colour}` },
        element("span", { class: `lab-${mark}` }), words);
      this.pseudo = entry("prior", "ring", "pseudo-inputs");
      this.legend = element("div", { class: "lab-planes lab-legend" },
        element("div", {}, element("h2", {}, "Latent plane z"), element("ul", {},
          entry("prior", "area", "prior p(z)"), entry("posterior", "dot", "codes of the data, q(z | x)"),
          entry("likelihood", "ring", "prior without codes: a hole"))),
        element("div", {}, element("h2", {}, "Data plane x"), element("ul", {},
          entry("data", "dot", "data"), entry("likelihood", "dot", "samples, decoded from the prior"),
          entry("likelihood", "ring", "samples from a hole"), this.pseudo)));
    }

    // Settings that show something. (Links with settings behind their # break the theme's scripts.)
    tries() {
      const link = (words, data, ...models) => element("li", {}, element("button", {
        type: "button",
        onclick: () => {
          this.apply({ data, seed: 0, models: models.map((m) => ({ ...DEFAULT, ...m })) }, words);
          this.root.scrollIntoView();
        },
      }, words));
      const vamp = { prior: "vampprior" };
      return element("nav", { class: "lab-tries", "aria-label": "Settings to try" },
        element("h2", {}, "Try"), element("ul", {},
          link("Two pseudo-inputs for eight groups, and fifty", "rings", { ...vamp, k: 2 }, vamp),
          link("Fifty free Gaussians against fifty pseudo-inputs", "rings", { prior: "mixture" }, vamp),
          link("A coupling flow as the prior", "rings", {}, { prior: "flow" }),
          link("A bent posterior under N(0, I)", "moons", {}, { posterior: "flow" }),
          link("β = 4 against β = 0.25: sharp pictures or no holes", "rings", { beta: 4 }, { beta: 0.25 }),
          link("Spirals", "spirals", {}, vamp),
          link("Paint your own data", "painted", {}, vamp)));
    }

    say(words, now = true) {
      if (now) this.status.textContent = words;
    }

    compare(two) {
      const [first] = this.settings.models;
      const other = { ...first, prior: first.prior === "vampprior" ? "gaussian" : "vampprior" };
      this.apply({ ...this.settings, models: two ? [first, sound(other)] : [first] });
    }

    change(index, model) {
      const models = this.settings.models.map((old, i) => (i === index ? sound(model) : old));
      this.apply({ ...this.settings, models }, `${"AB"[index]} is now ${described(models[index])}.`);
    }

    // Everything starts anew from these settings, which the address then holds.
    apply(settings, words) {
      this.settings = settings;
      const address = written(settings, this.spots);
      if (location.hash !== address) history.replaceState(null, "", address);
      const { data, seed, models } = settings;
      this.seed = seed;
      this.choice.value = data;
      this.both.checked = models.length > 1;
      this.wipe.hidden = data !== "painted";
      this.root.classList.toggle("lab-painting", data === "painted");
      this.drawData();
      this.models.length = Math.min(this.models.length, models.length);
      while (this.models.length < models.length) this.models.push(new Model(this, this.models.length));
      this.rows.replaceChildren(...this.models.map((model) => model.node));
      this.models.forEach((model, i) => model.start(models[i]));
      this.pseudo.hidden = !models.some(({ prior }) => prior === "vampprior");
      this.turn = 0;
      this.drawCharts();
      this.counted();
      if (data === "painted" && !this.spots.length) {
        this.pause();
        this.say("Paint data on the data plane: drag over it, or use the arrow keys and space.");
      } else if (words) {
        this.say(words);
      }
    }

    drawData() {
      const random = new Random(1000 + this.seed), name = this.settings.data;
      const spots = this.spots.length ? this.spots : [[0, 0]];
      const draw = name === "painted" ? painted(spots) : DATA_SETS[name];
      const all = draw(TRAIN + VALIDATION, random);
      const validation = all.part(TRAIN);
      this.data = { train: all.part(0, TRAIN), validation, shown: validation.part(0, SHOWN) };
      this.ceiling = DENSITIES[name] && mean(DENSITIES[name]().logProb(validation)).data[0];
      const normals = () => random.normals(SHOWN, 2);
      this.noise = { posterior: normals(), prior: normals(), likelihood: normals(),
        choice: random.uniforms(SHOWN) };
    }

    paint(x, y) {
      if (this.spots.length < 2000) this.spots.push([x, y]);
      this.models.forEach((model) => model.draw());
    }

    painted() {
      this.apply(this.settings, `${this.spots.length} spots of paint. Press Train.`);
    }

    spotsShown() {
      return this.spots.length ? Tensor.from(this.spots) : new Tensor(0, 2);
    }

    toggle() {
      if (this.running) {
        this.pause();
        this.say(`Paused. ${this.summary()}`);
      } else if (this.settings.data !== "painted" || this.spots.length) {
        this.running = true;
        this.go.textContent = "❚❚ Pause";
        this.next = this.said = performance.now();
        this.say("Training.");
        requestAnimationFrame(() => this.frame());
      }
    }

    pause() {
      this.running = false;
      this.go.textContent = "▶ Train";
      this.models.forEach((model) => model.rest());
      this.drawCharts();
    }

    stepOnce() {
      if (this.running) this.pause();
      this.models.forEach((model) => model.training.step());
      this.models.forEach((model) => model.training.evaluate());
      this.counted();
      this.models.forEach((model) => model.rest());
      this.drawCharts();
      this.say(this.summary());
    }

    // A frame either trains, for BUDGET ms and no more than a step longer, or does one thing for
    // the eye. Training gets at least two thirds of the time, however slow the machine.
    frame() {
      if (!this.running) return;
      const now = performance.now();
      if (now < this.next) {
        do this.advance();
        while (this.running && performance.now() - now < BUDGET);
      } else {
        const shows = [
          ...this.models.flatMap((model) => [() => model.look(), () => model.findHoles()]),
          () => this.drawCharts(),
        ];
        shows[this.turn % shows.length]();
        this.turn += 1;
        this.counted();
        // Where motion is not wanted, all is shown in one go, and then nothing for a while.
        const wait = calm() ? (this.turn % shows.length ? 0 : BETWEEN_CALM) : BETWEEN;
        this.next = now + wait + 2 * (performance.now() - now);
      }
      if (this.running && now - this.said > 5000) {
        this.said = now;
        this.say(this.summary());
      }
      requestAnimationFrame(() => this.frame());
    }

    // One step of the model that is behind.
    advance() {
      const [first, second] = this.models.map((model) => model.training);
      const training = second && second.steps < first.steps ? second : first;
      training.step();
      if (training.steps % EVERY === 0) training.evaluate();
      const { steps } = this.models.at(-1).training;
      if (training === this.models.at(-1).training && steps % SCHEDULE.steps === 0) {
        this.pause();
        this.counted();
        this.say(`Done. ${this.summary()}`);
      }
    }

    counted() {
      this.count.textContent = `step ${this.models.at(-1).training.steps} of ${SCHEDULE.steps}`;
    }

    summary() {
      const ends = this.models.map((model) => model.training.history.at(-1).elbo);
      const each = this.models.map((model, i) =>
        `${model.letter} ${described(model.settings)}: ${number(ends[i])} nats, ${model.hollow()} % of the prior in holes`);
      const [a, b] = ends, ahead = Math.abs(a - b);
      const verdict = ends.length < 2 || ahead < 0.05
        ? "" : ` ${a > b ? "A" : "B"} is ahead by ${number(ahead)}.`;
      return `Step ${this.models[0].training.steps}, validation ELBO. ${each.join("; ")}.${verdict}`;
    }

    draw() {
      this.models.forEach((model) => model.draw());
      this.drawCharts();
    }

    drawCharts() {
      if (!this.models.length) return;
      const last = Math.max(SCHEDULE.steps, ...this.models.map((model) => model.training.steps));
      const two = this.models.length > 1;
      const lines = (key, colour, name) => this.models.map((model, i) => {
        const { history } = model.training, end = history.at(-1)[key];
        return {
          points: history.map((point) => [point.steps, point[key]]), colour,
          dash: two && !i ? [5, 3] : [],
          label: `${two ? `${model.letter} ` : ""}${name}${name ? "" : number(end)}`,
        };
      });
      const level = this.ceiling !== undefined
        && { y: this.ceiling, label: `best possible: ${number(this.ceiling)}` };
      this.charts[0].draw({
        title: "validation ELBO (nats)", lines: lines("elbo", "ink", ""), last,
        level,
      });
      this.charts[1].draw({
        title: "its terms: reconstruction − KL (nats)", last,
        lines: [...lines("reconstruction", "likelihood", "rec."), ...lines("kl", "kl", "KL")],
      });
      this.bounds.setAttribute("aria-label", `Curves of the validation ELBO. ${this.summary()}`);
      const terms = this.models.map(({ letter, training }) => {
        const { reconstruction, kl } = training.history.at(-1);
        return `${letter}: reconstruction ${number(reconstruction)}, KL ${number(kl)} nats`;
      });
      this.terms.setAttribute("aria-label", `Curves of the two terms. ${terms.join("; ")}.`);
    }
  }

  FlowVAE.Lab = Lab;

  const root = document.getElementById("vae-lab");
  if (root) {
    FlowVAE.lab = new Lab(root);
    // In place of the still picture.
    document.documentElement.classList.add("lab-alive");
  }
})((globalThis.FlowVAE = globalThis.FlowVAE || {}));
