"""Refinement: latents moved uphill in log p(z), held near their start, with a reward if any."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .arguments import number, whole
from .errors import InputError

LogDensity = Callable[[Tensor], Tensor]

# Latents refined at once: more would not be faster and would not fit a laptop.
CHUNK = 10_000
# A step halved so often is smaller than rounding.
HALVINGS = 24


class Trace(NamedTuple):
    """What `refine` saw before the first and after each step, `(steps + 1, N)`, and of each."""

    log_prob: Tensor
    """log p(z), in nats."""
    reward: Tensor
    """Zeros without a reward."""
    distance: Tensor
    """‖z − z₀‖, from the start."""
    accepted: Tensor
    """`(steps, N)`: 0 where Metropolis' rule refused a step, else 1. The mean is the rate."""


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
    anchor: float | None = None,
    temperature: float = 0.0,
    metropolis: bool = False,
) -> Tensor:
    """Move latents uphill in U(z) = log p(z) + reward(z) − anchor ‖z − z₀‖² (`eq-refinement`).

    Each latent moves on its own: its result does not depend on the others. (In float32 it may,
    where a step and half of it are equally good to the last digit.)

    At temperature 0 this is gradient ascent without chance, and U never falls: a latent whose step
    would lower it halves that step until it does not, and next tries twice that size, up to lr.

    At a temperature τ > 0 it is Langevin dynamics, z ← z + lr ∇U + √(2 lr τ) ε, whose target is
    exp(U / τ) up to an error of order lr (`eq-langevin`). With `metropolis` each move is accepted
    or refused, and the target is exact. ε comes from torch's random state.

    Costs, per step, a gradient and a value of U, and another value for each halving; in chunks,
    so that memory stays flat.

    Args:
        z: `(N, D)`, where to start; it is left as it is.
        log_prob: log p, from `(N, D)` to `(N,)`, such as `vae.prior().log_prob`.
        reward: added to log p, from `(N, D)` to `(N,)`.
        steps: how many.
        lr: the size of a step, for a gradient of 1.
        anchor: how hard z₀ pulls; by default 0.1, and 0 with a temperature, to sample p itself.
        temperature: 0 climbs, 1 samples.
        metropolis: accept or refuse each Langevin move. One that is not finite is refused.

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
    anchor: float | None = None,
    temperature: float = 0.0,
    metropolis: bool = False,
) -> Refined:
    """The same as `refine`, with a `Trace` of the way."""
    steps, lr = whole(steps, "steps", least=0), number(lr, "lr", positive=True)
    temperature = number(temperature, "temperature")
    if anchor is None:
        anchor = 0.1 if temperature == 0 else 0.0
    anchor = number(anchor, "anchor")
    if metropolis and temperature == 0:
        raise InputError("a Metropolis correction needs a temperature above 0")
    if z.ndim != 2 or not z.is_floating_point():
        raise InputError(f"z must be floating point (N, D), got {z.dtype} {tuple(z.shape)}")
    if not z.isfinite().all():
        raise InputError("z has NaN or infinite values")
    if torch.is_inference_mode_enabled():
        raise InputError("refine needs gradients: call it under no_grad, not inference_mode")
    parts = []
    # A copy, because a tensor that was made in inference mode takes no gradient.
    for start in z.detach().clone().split(CHUNK):
        objective = _Objective(log_prob, reward, anchor, start)
        parts.append(_refine_chunk(objective, steps, lr, temperature, metropolis))
    trace = (torch.cat(values, dim=1) for values in zip(*(p.trace for p in parts), strict=True))
    return Refined(torch.cat([part.z for part in parts]), Trace(*trace))


class _Point(NamedTuple):
    z: Tensor
    log_prob: Tensor
    reward: Tensor
    objective: Tensor
    gradient: Tensor


class _Objective(NamedTuple):
    """U of one chunk of latents."""

    log_prob: LogDensity
    reward: LogDensity | None
    anchor: float
    start: Tensor

    def terms(self, z: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The values log p, reward and U of latents from these starts, `(N,)` each."""
        log_prob = self.log_prob(z)
        reward = torch.zeros_like(log_prob) if self.reward is None else self.reward(z)
        for name, value in (("log_prob", log_prob), ("reward", reward)):
            wanted, got = (len(z),), tuple(value.shape)
            if got != wanted:
                raise InputError(f"{name} must give one number a latent, {wanted}, got {got}")
        pull = self.anchor * (z - start).square().sum(-1)
        return log_prob, reward, log_prob + reward - pull

    def at(self, z: Tensor) -> _Point:
        """All of the latents, with their gradients."""
        gradient = -2 * self.anchor * (z - self.start)
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            log_prob, reward, objective = self.terms(z, self.start)
            gradient = gradient + _gradient("log_prob", log_prob, z)
            if self.reward is not None:
                gradient = gradient + _gradient("reward", reward, z)
        return _Point(*(value.detach() for value in (z, log_prob, reward, objective, gradient)))


def _gradient(name: str, value: Tensor, z: Tensor) -> Tensor:
    """Of the sum: each latent gets its own gradient, whatever their number."""
    gradient = None
    if value.requires_grad:
        (gradient,) = torch.autograd.grad(value.sum(), z, retain_graph=True, allow_unused=True)
    # There is none, too, if the graph leads to parameters only.
    if gradient is None:
        raise InputError(f"{name} gives no gradient: do not detach it or compute it under no_grad")
    return gradient.detach()


@torch.no_grad()
def _refine_chunk(
    objective: _Objective, steps: int, lr: float, temperature: float, metropolis: bool
) -> Refined:
    start = objective.start
    here = objective.at(start)
    _check_finite(here, 0)
    seen = [(here.log_prob, here.reward, (here.z - start).norm(dim=-1))]
    accepted = start.new_ones(steps, len(start))
    rates = start.new_full((len(start), 1), lr)
    for step in range(1, steps + 1):
        if temperature == 0:
            z, rates = _climb(objective, here, rates, lr)
        else:
            ahead = here.z + lr * here.gradient
            z = ahead + (2 * lr * temperature) ** 0.5 * torch.randn_like(ahead)
        there = objective.at(z)
        if metropolis:
            moves = _accept(here, there, lr, temperature)
            accepted[step - 1] = moves
            pairs = zip(here, there, strict=True)
            there = _Point(*(old.index_put((moves,), new[moves]) for old, new in pairs))
        else:
            _check_finite(there, step)
        here = there
        seen.append((here.log_prob, here.reward, (here.z - start).norm(dim=-1)))
    log_prob, reward, distance = map(torch.stack, zip(*seen, strict=True))
    return Refined(here.z, Trace(log_prob, reward, distance, accepted))


def _check_finite(point: _Point, step: int) -> None:
    values = point.log_prob, point.reward, point.gradient.sum(-1)
    for name, value in zip(("log_prob", "reward", "the gradient"), values, strict=True):
        bad = int((~value.isfinite()).sum())
        if bad:
            raise InputError(
                f"{name} is not finite at step {step} for {bad} of {len(value)} latents: start "
                "where the density is not zero, or lower lr"
            )


def _climb(objective: _Objective, here: _Point, rates: Tensor, lr: float) -> tuple[Tensor, Tensor]:
    """A step uphill, halved for each latent until it is none downhill, and the next rates."""
    z, rates = here.z.clone(), rates.clone()
    left = torch.arange(len(z), device=z.device)
    while len(left):
        trial = here.z[left] + rates[left] * here.gradient[left]
        _, _, value = objective.terms(trial, objective.start[left])
        # Written so that NaN counts as downhill.
        uphill = value >= here.objective[left]
        z[left[uphill]] = trial[uphill]
        left = left[~uphill]
        rates[left] /= 2
        left = left[rates[left, 0] > lr / 2**HALVINGS]
    # Where the density is sharp, not every step has to find that out from the start.
    return z, (2 * rates).clamp(max=lr)


def _accept(here: _Point, there: _Point, lr: float, temperature: float) -> Tensor:
    """Which Langevin moves Metropolis' rule accepts, `(N,)`: none to where U is not finite."""
    ahead, back = (point.z + lr * point.gradient for point in (here, there))
    log_ratio = (there.objective - here.objective) / temperature + (
        (there.z - ahead).square().sum(-1) - (here.z - back).square().sum(-1)
    ) / (4 * lr * temperature)
    finite = (there.objective + there.gradient.sum(-1)).isfinite()
    return finite & (torch.rand_like(log_ratio).log() < log_ratio)
