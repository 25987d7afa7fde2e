"""Langevin moves: what Metropolis' rule refuses, how often it accepts, and the default anchor."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

import flowvae_tutorial.refinement
from flowvae_tutorial import InputError, refine, refine_with_trace

Density = Callable[[Tensor], Tensor]
BAD = [math.nan, math.inf, -math.inf]


def standard_normal(z: Tensor) -> Tensor:
    return -0.5 * z.square().sum(-1) - 0.5 * z.shape[-1] * math.log(2 * math.pi)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def has_moments(values: Tensor, mean: float, variance: float) -> bool:
    """Whether independent values have this mean and variance, within four standard errors."""
    squares = (values - mean).square()
    return all(
        (found.mean() - expected).abs() < 4 * found.std() / len(values) ** 0.5
        for found, expected in ((values, mean), (squares, variance))
    )


# --- moves to where the density is not finite ---------------------------------------------------


def holed(bad: float) -> Density:
    return lambda z: torch.where(z[:, 0] < 0, bad, standard_normal(z))


def hole_of_the_gradient(z: Tensor) -> Tensor:
    """Finite everywhere; below 0 its gradient is 0 × ∞."""
    return standard_normal(z) + 0 * (z[:, 0] * (z[:, 0] > 0)).sqrt()


@pytest.mark.parametrize(
    "functions",
    [*((holed(bad),) for bad in BAD), *((standard_normal, holed(bad)) for bad in BAD),
     (hole_of_the_gradient,)],
)  # fmt: skip
def test_moves_that_are_not_finite_are_refused_and_the_rest_is_the_half_normal(
    functions: tuple[Density, ...],
) -> None:
    start = draw(6000, 1).abs() + 0.1
    # With a reward of the same height the target is half as wide.
    width = 1 / len(functions) ** 0.5
    z, trace = refine_with_trace(
        start, *functions, steps=80, lr=0.3 * width, temperature=1, metropolis=True
    )
    assert (z > 0).all() and all(values.isfinite().all() for values in trace)
    assert has_moments(z[:, 0], width * math.sqrt(2 / math.pi), width**2 * (1 - 2 / math.pi))


@pytest.mark.parametrize("bad", BAD)
def test_a_refused_latent_changes_nothing_for_the_others(bad: float) -> None:
    z = draw(50, 2)

    def spoilt(at: Tensor) -> Tensor:
        """Not finite for the first two latents, once they have moved."""
        first = torch.arange(len(at)) < 2
        return torch.where(first & (at != z).any(-1), bad, standard_normal(at))

    ends = []
    for log_prob in (standard_normal, spoilt):
        torch.manual_seed(4)
        ends.append(refine(z, log_prob, steps=5, lr=0.3, temperature=1, metropolis=True))
    assert torch.equal(ends[1][2:], ends[0][2:])
    assert torch.equal(ends[1][:2], z[:2]) and not torch.equal(ends[0][:2], z[:2])


@pytest.mark.parametrize("bad", BAD)
def test_a_start_that_is_not_finite_is_refused_with_metropolis_too(bad: float) -> None:
    z = torch.tensor([[-1.0], [1.0], [2.0]], dtype=torch.float64)
    with pytest.raises(InputError, match=r"\Alog_prob is not finite at step 0 for 1 of 3 latents"):
        refine(z, holed(bad), temperature=1, metropolis=True)


@pytest.mark.parametrize("bad", BAD)
def test_without_metropolis_a_move_that_is_not_finite_names_its_step(bad: float) -> None:
    # Each step leads 0.2 to the left, with next to no noise: to 0.1, then to -0.1.
    z = torch.full((3, 1), 0.3, dtype=torch.float64)

    def slope(z: Tensor) -> Tensor:
        return torch.where(z[:, 0] < 0, bad, -20 * z[:, 0])

    with pytest.raises(InputError, match=r"\Alog_prob is not finite at step 2 for 3 of 3 latents"):
        refine(z, slope, steps=9, lr=0.01, temperature=1e-6)


# --- the acceptance rate --------------------------------------------------------------------------


def rate_by_quadrature(lr: float, temperature: float) -> float:
    """E[min(1, ρ)] of a move under exp(log p / τ) with p = N(0, 1), from a draw of it."""
    target = Normal(torch.zeros((), dtype=torch.float64), temperature**0.5)
    unit = torch.linspace(-7, 7, 701, dtype=torch.float64)
    z, noise = (temperature**0.5 * unit)[:, None], unit[None, :]
    width = math.sqrt(2 * lr * temperature)
    moved = (1 - lr) * z + width * noise
    there, back = Normal((1 - lr) * z, width), Normal((1 - lr) * moved, width)
    log_ratio = target.log_prob(moved) + back.log_prob(z) - target.log_prob(z)
    ratio = (log_ratio - there.log_prob(moved)).exp().clamp(max=1)
    weight = Normal(0.0, 1.0).log_prob(unit).exp() * (unit[1] - unit[0])
    return (weight[:, None] * weight * ratio).sum().item()


@pytest.mark.parametrize(("lr", "temperature"), [(0.1, 1.0), (0.5, 1.0), (1.5, 1.0), (1.5, 0.3)])
def test_the_acceptance_rate_under_a_gaussian_is_the_integral(
    lr: float, temperature: float
) -> None:
    start = temperature**0.5 * draw(40_000, 1)
    trace = refine_with_trace(
        start, standard_normal, steps=1, lr=lr, temperature=temperature, metropolis=True
    ).trace
    expected = rate_by_quadrature(lr, temperature)
    error = math.sqrt(expected * (1 - expected) / len(start))
    assert trace.accepted.mean().item() == pytest.approx(expected, abs=4 * error)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_was_accepted_is_what_has_moved(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flowvae_tutorial.refinement, "CHUNK", 30)
    z = draw(100, 2).to(dtype)
    _, trace = refine_with_trace(
        z, standard_normal, steps=4, lr=1.0, temperature=1, metropolis=True
    )
    assert trace.accepted.shape == (4, 100) and trace.accepted.dtype == dtype
    moved = trace.distance.diff(dim=0) != 0
    assert torch.equal(trace.accepted, moved.to(dtype))
    assert 0.2 < moved.to(dtype).mean() < 0.9


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_without_metropolis_every_step_is_accepted(temperature: float) -> None:
    trace = refine_with_trace(draw(5, 2), standard_normal, steps=3, temperature=temperature).trace
    assert torch.equal(trace.accepted, torch.ones(3, 5, dtype=torch.float64))


# --- the anchor without being asked for -----------------------------------------------------------


@pytest.mark.parametrize(("lr", "steps"), [(0.1, 80), (0.5, 40)])
def test_a_standard_normal_is_sampled_with_its_own_variance(lr: float, steps: int) -> None:
    for start in (draw(10_000, 1), torch.full((10_000, 1), 2.0, dtype=torch.float64)):
        z = refine(start, standard_normal, steps=steps, lr=lr, temperature=1, metropolis=True)
        assert has_moments(z[:, 0], 0, 1)


@pytest.mark.parametrize(("temperature", "anchor"), [(0.0, 0.1), (0.7, 0.0)])
def test_the_default_anchor_holds_a_climb_and_leaves_langevin_free(
    temperature: float, anchor: float
) -> None:
    z = draw(5, 2)
    ends = []
    for arguments in ({}, {"anchor": anchor}):
        torch.manual_seed(1)
        ends.append(refine(z, standard_normal, temperature=temperature, **arguments))
    assert torch.equal(*ends)
