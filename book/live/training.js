// Adam, and one training that goes on step by step.
(function (FlowVAE) {
  "use strict";

  const { Random, gradients, mean } = FlowVAE;

  class Adam {
    constructor(parameters, lr = 1e-3, [beta1, beta2] = [0.9, 0.999], eps = 1e-8) {
      Object.assign(this, { parameters, lr, beta1, beta2, eps, steps: 0 });
      this.moments = parameters.map(({ data }) =>
        [new Float64Array(data.length), new Float64Array(data.length)]);
    }

    step() {
      this.steps += 1;
      const { beta1, beta2 } = this;
      const correction1 = 1 - beta1 ** this.steps, correction2 = 1 - beta2 ** this.steps;
      this.parameters.forEach(({ data, grad }, p) => {
        const [first, second] = this.moments[p];
        for (let i = 0; i < data.length; i++) {
          first[i] = beta1 * first[i] + (1 - beta1) * grad[i];
          second[i] = beta2 * second[i] + (1 - beta2) * grad[i] * grad[i];
          const size = Math.sqrt(second[i] / correction2) + this.eps;
          data[i] -= ((this.lr / correction1) * first[i]) / size;
        }
        grad.fill(0);
      });
    }
  }

  const SCHEDULE = { lr: 1e-2, batch: 128, warmup: 200, steps: 1500, decay: 0.4 };

  // Trains `vae` on `train` (N, X). Two trainings of one seed see the same examples and noise.
  class Training {
    constructor(vae, { train, validation }, { beta = 1, seed = 0, latent = 2 } = {}) {
      Object.assign(this, { vae, train, validation, beta, latent });
      this.random = new Random(seed);
      this.noise = this.random.normals(validation.rows, latent);
      this.optimizer = new Adam(vae.parameters, SCHEDULE.lr);
      this.history = [];
    }

    get steps() {
      return this.optimizer.steps;
    }

    // One step. β rises from 0 during the warm-up, and the step size falls in the last part.
    step() {
      const { lr, batch, warmup, steps, decay } = SCHEDULE;
      const left = Math.max(0.02, (steps - this.steps) / (decay * steps));
      this.optimizer.lr = lr * Math.min(1, left);
      const indices = Array.from({ length: batch }, () => this.random.integer(this.train.rows));
      const noise = this.random.normals(batch, this.latent);
      const beta = this.beta * Math.min(1, (this.steps + 1) / warmup);
      const loss = gradients(() => this.vae.loss(this.train.rowsAt(indices), noise, beta));
      this.optimizer.step();
      return loss.data[0];
    }

    // Both terms and the ELBO of the validation data, in nats an example, kept in `history`.
    evaluate() {
      const terms = this.vae.elbo(this.validation, this.noise);
      const [reconstruction, kl] = [terms.reconstruction, terms.kl].map((t) => mean(t).data[0]);
      const point = { steps: this.steps, reconstruction, kl, elbo: reconstruction - kl };
      this.history.push(point);
      return point;
    }
  }

  Object.assign(FlowVAE, { Adam, Training, SCHEDULE });
})((globalThis.FlowVAE = globalThis.FlowVAE || {}));
