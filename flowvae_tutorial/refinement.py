"""Refinement: latents moved uphill in log p(z), held near their start, with a reward if any."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import InputError

LogDensity = Callable[[Tensor], Tensor]

# Latents refined at once: more would not be faster and would not fit a laptop.
CHUNK = 10_000
# A step halved so often is smaller than rounding.
HALVINGS = 24


class Trace(NamedTuple):
    """What `refine` saw before the first and after each step, `(steps + 1, N)` each."""

    log_prob: Tensor
    """log p(z), in nats."""
    reward: Tensor
    """Zeros without a reward."""
    distance: Tensor
    """‖z − z₀‖, from the start."""


class Refined(NamedTuple):
    """The refined latents and the way there."""

    z: Tensor
    trace: Trace


def refine(
    z: Tensor,
    log_prob: LogDensity,
    reward: LogDensity | None = None,
    *,
    steps: int = 10,
    lr: float = 0.1,
    anchor: float = 0.1,
    temperature: float = 0.0,
    metropolis: bool = False,
) -> Tensor:
    """Move latents uphill in U(z) = log p(z) + reward(z) − anchor ‖z − z₀‖² (`eq-refinement`).

    Each latent moves on its own: its result does not depend on the others. (In float32 it may,
    where a step and half of it are equally good to the last digit.)

    At temperature 0 this is gradient ascent, and U never falls: a latent whose step would lower
    it halves that step until it does not, and tries twice that size, up to lr, at its next step.
    Nothing is drawn at random.

    At a temperature τ > 0 it is Langevin dynamics, z ← z + lr ∇U + √(2 lr τ) ε, whose target is
    exp(U / τ) up to an error of order lr (`eq-langevin`). With `metropolis` each move is
    accepted or refused, and the target is exact. ε comes from torch's random state.

    Costs, per step, a gradient and a value of U, and another value for each halving; in chunks,
    so that memory stays flat.

    Args:
        z: `(N, D)`, where to start; it is left as it is.
        log_prob: log p, from `(N, D)` to `(N,)`, such as `vae.prior().log_prob`.
        reward: added to log p, from `(N, D)` to `(N,)`.
        steps: how many.
        lr: the size of a step, for a gradient of 1.
        anchor: how hard z₀ pulls.
        temperature: 0 climbs, 1 samples.
        metropolis: accept or refuse each Langevin move.

    Returns:
        `(N, D)`, of the dtype of z and without a graph. No parameter gets a gradient.

    Raises:
        InputError: an argument makes no sense; log_prob or reward has another shape than `(N,)`,
            gives no gradient or is not finite. The message names step and number of latents.

    Example:
        >>> from flowvae_tutorial import CouplingFlow, refine
        >>> p = CouplingFlow(2)()
        >>> z = p.sample((10,))
        >>> refined = refine(z, p.log_prob, steps=5)
        >>> bool((p.log_prob(refined) >= p.log_prob(z)).all())
        True
    """
    return refine_with_trace(
        z, log_prob, reward, steps=steps, lr=lr, anchor=anchor, temperature=temperature,
        metropolis=metropolis,
    ).z  # fmt: skip


def refine_with_trace(
    z: Tensor,
    log_prob: LogDensity,
    reward: LogDensity | None = None,
    *,
    steps: int = 10,
    lr: float = 0.1,
    anchor: float = 0.1,
    temperature: float = 0.0,
    metropolis: bool = False,
) -> Refined:
    """The same as `refine`, with log p, reward and distance before and after each step."""
    # Written so that NaN is refused, too.
    sensible = 0 < lr < math.inf and 0 <= anchor < math.inf and 0 <= temperature < math.inf
    if not sensible or steps < 0:
        raise InputError(
            "refine needs a positive lr, and steps, anchor and temperature not below 0, all "
            f"finite; got steps={steps}, lr={lr}, anchor={anchor}, temperature={temperature}"
        )
    if metropolis and temperature == 0:
        raise InputError("a Metropolis correction needs a temperature above 0")
    if z.ndim != 2 or not z.is_floating_point():
        raise InputError(
            f"z must be floating point of shape (N, D), got {z.dtype} {tuple(z.shape)}"
        )
    if not z.isfinite().all():
        raise InputError("z has NaN or infinite values")
    if torch.is_inference_mode_enabled():
        raise InputError("refine needs gradients: call it under no_grad, not inference_mode")
    parts = []
    # A copy, because a tensor that was made in inference mode takes no gradient.
    for start in z.detach().clone().split(CHUNK):
        ascent = _Ascent(start, log_prob, reward, lr, anchor, temperature, metropolis)
        parts.append(ascent.run(steps))
    trace = (torch.cat(values, dim=1) for values in zip(*(p.trace for p in parts), strict=True))
    return Refined(torch.cat([part.z for part in parts]), Trace(*trace))


class _Point(NamedTuple):
    z: Tensor
    log_prob: Tensor
    reward: Tensor
    objective: Tensor


class _Ascent:
    """One chunk of latents on its way."""

    def __init__(
        self,
        start: Tensor,
        log_prob: LogDensity,
        reward: LogDensity | None,
        lr: float,
        anchor: float,
        temperature: float,
        metropolis: bool,
    ) -> None:
        self.start, self.log_prob, self.reward = start, log_prob, reward
        self.lr, self.anchor, self.temperature = lr, anchor, temperature
        self.metropolis = metropolis
        self.rates = start.new_full((len(start), 1), lr)

    def run(self, steps: int) -> Refined:
        point, gradient = self.with_gradient(self.start, 0)
        rows = [self.seen(point)]
        for step in range(1, steps + 1):
            if self.temperature == 0:
                point, gradient = self.with_gradient(self.climb(point, gradient), step)
            else:
                point, gradient = self.diffuse(point, gradient, step)
            rows.append(self.seen(point))
        return Refined(point.z, Trace(*map(torch.stack, zip(*rows, strict=True))))

    def seen(self, point: _Point) -> tuple[Tensor, Tensor, Tensor]:
        return point.log_prob, point.reward, (point.z - self.start).norm(dim=-1)

    def at(self, z: Tensor, start: Tensor) -> _Point:
        log_prob = self.log_prob(z)
        reward = torch.zeros_like(log_prob) if self.reward is None else self.reward(z)
        for name, value in (("log_prob", log_prob), ("reward", reward)):
            if value.shape != z.shape[:1]:
                raise InputError(
                    f"{name} must give one number a latent, shape {tuple(z.shape[:1])}, got "
                    f"{tuple(value.shape)}"
                )
        pull = self.anchor * (z - start).square().sum(-1)
        return _Point(z, log_prob, reward, log_prob + reward - pull)

    def with_gradient(self, z: Tensor, step: int) -> tuple[_Point, Tensor]:
        gradient = -2 * self.anchor * (z - self.start)
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            point = self.at(z, self.start)
            for name, value in (("log_prob", point.log_prob), ("reward", point.reward)):
                if name == "reward" and self.reward is None:
                    continue
                # Of the sum: each latent gets its own gradient, whatever their number.
                part = (
                    torch.autograd.grad(value.sum(), z, retain_graph=True, allow_unused=True)[0]
                    if value.requires_grad
                    else None
                )
                # There is none, too, if the graph leads to parameters only.
                if part is None:
                    raise InputError(
                        f"{name} gives no gradient: do not detach it or compute it under no_grad"
                    )
                gradient = gradient + part.detach()
        for name, value in (
            ("log_prob", point.log_prob),
            ("reward", point.reward),
            ("the gradient", gradient.sum(-1)),
        ):
            bad = int((~value.isfinite()).sum())
            if bad:
                raise InputError(
                    f"{name} is not finite at step {step} for {bad} of {len(z)} latents: start "
                    "where the density is not zero, or lower lr"
                )
        return _Point(*(value.detach() for value in point)), gradient

    @torch.no_grad()
    def climb(self, point: _Point, gradient: Tensor) -> Tensor:
        """A step uphill, halved for each latent until it is none downhill."""
        z, rates = point.z.clone(), self.rates
        left = torch.arange(len(z), device=z.device)
        while len(left):
            trial = point.z[left] + rates[left] * gradient[left]
            # Written so that NaN counts as downhill.
            uphill = self.at(trial, self.start[left]).objective >= point.objective[left]
            z[left[uphill]] = trial[uphill]
            left = left[~uphill]
            rates[left] /= 2
            left = left[rates[left, 0] > self.lr / 2**HALVINGS]
        # Where the density is sharp, not every step has to find that out from the start.
        self.rates = (2 * rates).clamp(max=self.lr)
        return z

    @torch.no_grad()
    def diffuse(self, point: _Point, gradient: Tensor, step: int) -> tuple[_Point, Tensor]:
        """A Langevin move, refused for each latent by Metropolis' rule if that is asked for."""
        spread = 2 * self.lr * self.temperature
        ahead = point.z + self.lr * gradient
        z = ahead + spread**0.5 * torch.randn_like(ahead)
        there, gradient_there = self.with_gradient(z, step)
        if not self.metropolis:
            return there, gradient_there
        back = z + self.lr * gradient_there
        log_ratio = (there.objective - point.objective) / self.temperature + (
            (z - ahead).square().sum(-1) - (point.z - back).square().sum(-1)
        ) / (2 * spread)
        accepted = torch.rand_like(log_ratio).log() < log_ratio

        def choose(new: Tensor, old: Tensor) -> Tensor:
            return torch.where(accepted if new.ndim == 1 else accepted.unsqueeze(-1), new, old)

        chosen = _Point(*(choose(*pair) for pair in zip(there, point, strict=True)))
        return chosen, choose(gradient_there, gradient)
