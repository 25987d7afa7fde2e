"""Langevin moves: the default anchor."""

import math

import pytest
import torch
from torch import Tensor

from flowvae_tutorial import refine


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
