// Refinement: latents moved uphill in log p(z), held near their start, with a reward if any.
(function (FlowVAE) {
  "use strict";

  const { Tensor, gradients, add, sub, mul, square, rowSum, mean } = FlowVAE;

  // A step halved so often is smaller than rounding.
  const HALVINGS = 24;

  // U(z) = log p(z) + r(z) − anchor ‖z − z₀‖² of the rows of z, with starts z₀, and its gradient.
  function objective({ logProb, reward, anchor, start }) {
    const terms = (z, from = start) => {
      const logP = logProb(z), r = reward ? reward(z) : new Tensor(z.rows, 1);
      const pull = mul(rowSum(square(sub(z, from))), anchor);
      return { logProb: logP, reward: r, value: sub(add(logP, r), pull) };
    };
    const at = (z) => {
      const free = Tensor.parameter(z.rows, z.cols, z.data.slice());
      let found;
      // The sum: each latent gets its own gradient, whatever their number.
      gradients(() => {
        found = terms(free);
        return mul(mean(found.value), z.rows);
      });
      return { ...found, z, gradient: new Tensor(z.rows, z.cols, free.grad) };
    };
    return { terms, at, start };
  }

  // A step uphill, halved for each latent until it is none downhill: the next point and next rates.
  function climb(goal, here, rates, lr) {
    const z = here.z.part(0), next = rates.map((rate) => Math.min(rate, lr));
    let left = [...next.keys()];
    while (left.length) {
      const trial = here.z.rowsAt(left), slope = here.gradient.rowsAt(left);
      left.forEach((n, r) => trial.row(r).forEach((v, d) => {
        trial.row(r)[d] = v + next[n] * slope.row(r)[d];
      }));
      const { value } = goal.terms(trial, goal.start.rowsAt(left));
      left = left.filter((n, r) => {
        // Written so that NaN counts as downhill.
        const uphill = value.data[r] >= here.value.data[n];
        if (uphill) z.row(n).set(trial.row(r));
        else next[n] /= 2;
        return !uphill && next[n] > lr / 2 ** HALVINGS;
      });
    }
    return { here: goal.at(z), rates: next.map((rate) => Math.min(2 * rate, lr)) };
  }

  // A step of Langevin dynamics: the gradient, and noise (N, D) of that temperature.
  function wander(goal, here, lr, temperature, noise) {
    const ahead = add(here.z, mul(here.gradient, lr));
    return goal.at(add(ahead, mul(noise, Math.sqrt(2 * lr * temperature))));
  }

  Object.assign(FlowVAE, { objective, climb, wander });
})((globalThis.FlowVAE = globalThis.FlowVAE || {}));
