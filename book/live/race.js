// The book's first claim, watched: N(0, I) and a VampPrior train on the ring, side by side.
(function (FlowVAE) {
  "use strict";

  const { Random, Training, SCHEDULE, DATA_SETS, DENSITIES, build, mean } = FlowVAE;
  const { element, number, calm, button, colourKey, titledPlane, table, mount } = FlowVAE;

  const TRAIN = 2000, VALIDATION = 512, SHOWN = 300, SQUARES = 40;
  // Milliseconds: of training within a frame, and between two pictures.
  const BUDGET = 12, BETWEEN = 120, BETWEEN_CALM = 1000;
  const NAMES = { gaussian: "N(0, I)", vampprior: "VampPrior" };

  function race(say) {
    const state = { seed: 0, running: false, runners: [] };
    const lanes = Object.entries(NAMES).map(([prior, name]) => {
      const plane = (axis, title, label) => titledPlane(axis, `${name}: ${title}`,
        `${label} under ${name}.`, () => draw(), { keys: false });
      const planes = [plane("z", "codes", "Latent plane: the prior and the codes of the data"),
        plane("x", "samples", "Data plane: data and samples")];
      return { prior, name, planes };
    });
    const told = table("validation, nats", ["ELBO"],
      [...lanes.map(({ name }) => name), "best possible: the ring's own log p(x)"]);

    // Data alone: nothing is built or trained before the reader asks for it.
    function reset() {
      state.running = false;
      const random = new Random(1000 + state.seed);
      const all = DATA_SETS.rings(TRAIN + VALIDATION, random), validation = all.part(TRAIN);
      Object.assign(state, { runners: [], data: { train: all.part(0, TRAIN), validation } });
      state.noise = {
        codes: random.normals(SHOWN, 2), prior: random.normals(SHOWN, 2), x: random.normals(SHOWN, 2),
        choice: random.uniforms(SHOWN),
      };
      lanes.forEach((lane, i) => {
        lane.seen = null;
        lane.planes[0].extent = 3.4;
        told.fill(i, ["–"]);
      });
      state.best = number(mean(DENSITIES.rings().logProb(validation)).data[0]);
      told.fill(lanes.length, [state.best]);
      go.textContent = "▶ Train both";
      draw();
    }

    function prepare() {
      const { data, seed } = state;
      state.runners = lanes.map(({ prior }) => {
        const vae = build({ prior, posterior: "gaussian", k: 50 }, data.train, seed);
        return new Training(vae, data, { seed });
      });
    }

    function look() {
      lanes.forEach((lane, i) => {
        const { vae } = state.runners[i], p = vae.prior.forward(), { noise, data } = state;
        const [latents] = lane.planes, z = p.sample(noise.prior, noise.choice);
        const codes = vae.posterior.forward(data.validation.part(0, SHOWN)).sample(noise.codes);
        const far = Array.from(codes.data, Math.abs).sort((a, b) => a - b);
        // It only widens: a plane that follows each spread would tremble.
        latents.extent = Math.max(latents.extent, 1.15 * far[Math.floor(0.99 * far.length)]);
        lane.seen = {
          codes, extent: latents.extent, density: p.logProb(latents.grid(SQUARES)).data,
          samples: vae.likelihood.forward(z).sample(noise.x),
        };
        lane.elbo = number(state.runners[i].evaluate().elbo);
        told.fill(i, [lane.elbo]);
      });
      draw();
    }

    function draw() {
      for (const { planes: [latents, points], seen } of lanes) {
        latents.clear();
        latents.axes();
        if (seen) {
          latents.density(seen.density, seen.extent, "prior");
          latents.points(seen.codes, "posterior", { size: 1.3, alpha: 0.7 });
        }
        latents.names();
        points.clear();
        points.axes();
        points.points(state.data.validation.part(0, SHOWN), "data", { size: 1.4, alpha: 0.4 });
        if (seen) points.points(seen.samples, "likelihood", { size: 1.6, alpha: 0.8 });
        points.names();
      }
    }

    const steps = () => (state.runners.length ? state.runners[1].steps : 0);
    const summary = () => (steps() ? `Step ${steps()} of ${SCHEDULE.steps}. ELBO ${lanes.map(({ name, elbo }) =>
      `${name} ${elbo}`).join(", ")}; best possible ${state.best} nats.` : "");

    function stop(words) {
      state.running = false;
      go.textContent = "▶ Train both";
      look();
      say(`${words} ${summary()}`);
    }

    // One step of the model that is behind.
    function advance() {
      const [first, second] = state.runners;
      (second.steps < first.steps ? second : first).step();
      return second.steps < SCHEDULE.steps;
    }

    function frame(next, said) {
      if (!state.running) return;
      const now = performance.now();
      while (state.running && performance.now() - now < BUDGET) {
        if (!advance()) {
          stop("Done.");
          return;
        }
      }
      if (now > next) {
        look();
        say(`Training. ${summary()}`, now < said);
        if (now >= said) said = now + 5000;
        // Training has two thirds of the time, however slow the machine.
        const took = performance.now() - now;
        next = now + took + Math.max(2 * took, calm() ? BETWEEN_CALM : BETWEEN);
      }
      requestAnimationFrame(() => frame(next, said));
    }

    const go = button("▶ Train both", () => {
      if (state.running) {
        stop("Paused.");
        return;
      }
      if (steps() >= SCHEDULE.steps) reset();
      if (!state.runners.length) prepare();
      state.running = true;
      go.textContent = "❚❚ Pause";
      say("Training.");
      requestAnimationFrame((now) => frame(now, now + 2000));
    });
    const opening = "Press the button: two models train on the ring, with the same noise.";
    const bar = element("div", { class: "lab-bar", role: "group", "aria-label": "Training" }, go,
      button("New data and noise", () => {
        state.seed += 1;
        reset();
        say("New data, weights and noise.");
      }),
      button("Reset", () => {
        state.seed = 0;
        reset();
        say(opening);
      }));
    const key = colourKey(
      "Left of each pair: the prior in blue, and the codes of the data in orange. Right: data in grey, and "
      + "samples in green.");
    reset();
    say(opening);
    const planes = lanes.flatMap((lane) => lane.planes);
    const row = element("div", { class: "live-planes live-pairs live-picture" }, ...lanes.map((lane) =>
      element("div", { class: "live-planes" }, ...lane.planes.map((p) => p.node))));
    return {
      nodes: [bar, row, key, told.node], draw, look, prepare, state, lanes, planes, steps,
      about: "Nothing is trained here before you press the button: networks 2–32–32–4 and 2–32–32–2, "
        + "K = 50, as in the VAE lab.",
    };
  }

  mount("race", race);
})((globalThis.FlowVAE = globalThis.FlowVAE || {}));
