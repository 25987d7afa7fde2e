"""Likelihoods against their closed forms, and the floor that keeps them finite."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flowvae_tutorial import BernoulliLikelihood, GaussianLikelihood, InputError

FEATURES, FLOOR = 6, 0.05


def gaussian(raw_scale: float | None = None) -> GaussianLikelihood:
    likelihood = GaussianLikelihood(nn.Linear(2, FEATURES), FEATURES, FLOOR).double()
    if raw_scale is not None:
        nn.init.constant_(likelihood.raw_scale, raw_scale)
    return likelihood


def test_bernoulli_is_the_cross_entropy_summed_over_pixels_and_nothing_else() -> None:
    net = nn.Linear(2, FEATURES).double()
    z = torch.randn(5, 3, 2, dtype=torch.float64)
    x = torch.randint(2, (3, FEATURES)).double()
    p_x = BernoulliLikelihood(net)(z)
    assert (p_x.batch_shape, p_x.event_shape) == ((5, 3), (FEATURES,))
    each = F.binary_cross_entropy_with_logits(net(z), x.expand(5, -1, -1), reduction="none")
    torch.testing.assert_close(p_x.log_prob(x), -each.sum(-1), rtol=0, atol=1e-12)
    torch.testing.assert_close(p_x.mean, net(z).sigmoid())


def test_bernoulli_stays_finite_at_extreme_logits() -> None:
    p_x = BernoulliLikelihood(nn.Identity())(torch.tensor([[-500.0, 500.0]]))
    assert p_x.log_prob(torch.tensor([[1.0, 0.0]])).item() == -1000


def test_gaussian_has_one_scale_a_pixel() -> None:
    likelihood = gaussian()
    with torch.no_grad():
        likelihood.raw_scale.copy_(torch.linspace(-2, 2, FEATURES))
    z = torch.randn(5, 3, 2, dtype=torch.float64)
    x = torch.randn(3, FEATURES, dtype=torch.float64)
    p_x = likelihood(z)
    assert (p_x.batch_shape, p_x.event_shape) == ((5, 3), (FEATURES,))
    scale = FLOOR + torch.log1p(likelihood.raw_scale.exp())
    error = (x - likelihood.net(z)) / scale
    each = -0.5 * error**2 - scale.log() - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(p_x.log_prob(x), each.sum(-1), rtol=0, atol=1e-12)
    torch.testing.assert_close(p_x.stddev, scale.expand(5, 3, -1))
    torch.testing.assert_close(p_x.mean, likelihood.net(z))


@pytest.mark.parametrize("raw_scale", [-1e4, -50.0, -1.0, 0.0])
def test_scale_is_never_under_its_floor(raw_scale: float) -> None:
    p_x = gaussian(raw_scale)(torch.zeros(1, 1, 2, dtype=torch.float64))
    assert (p_x.stddev >= FLOOR).all()
    assert p_x.log_prob(p_x.mean).isfinite().all()


def test_scale_reaches_its_floor() -> None:
    p_x = gaussian(-1e4)(torch.zeros(1, 1, 2, dtype=torch.float64))
    torch.testing.assert_close(p_x.stddev, torch.full_like(p_x.stddev, FLOOR))


def test_training_on_a_pixel_that_never_varies_stays_above_the_floor() -> None:
    likelihood = gaussian()
    optimizer = torch.optim.SGD(likelihood.parameters(), lr=0.01)
    for _ in range(200):
        loss = -likelihood(torch.zeros(1, 1, 2).double()).log_prob(torch.zeros(FEATURES)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scale = likelihood(torch.zeros(1, 1, 2).double()).stddev
    assert (scale >= FLOOR).all() and (scale < 0.2).all()


def test_gradient_reaches_every_parameter() -> None:
    likelihood = gaussian()
    likelihood(torch.randn(5, 3, 2).double()).log_prob(torch.randn(3, FEATURES)).sum().backward()
    assert all(p.grad is not None and p.grad.all() for p in likelihood.parameters())


@pytest.mark.parametrize("floor", [0.0, -0.1, -math.inf])
def test_a_floor_that_is_no_floor_is_refused(floor: float) -> None:
    with pytest.raises(
        InputError, match=rf"\Amin_scale must be a number above 0 to[^\n]*, got {floor}"
    ):
        GaussianLikelihood(nn.Linear(2, FEATURES), FEATURES, floor)
