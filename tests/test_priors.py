"""Priors against their closed forms."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from flowvae_tutorial import GaussianMixture, InputError, StandardNormal


def mixture() -> GaussianMixture:
    """Three components in two dimensions, all different."""
    prior = GaussianMixture(2, 3).double()
    with torch.no_grad():
        prior.loc.copy_(torch.tensor([[-2.0, 0.5], [1.0, 1.5], [0.5, -2.0]]))
        prior.log_scale.copy_(torch.tensor([[-0.5, 0.1], [-0.3, -0.8], [0.2, -0.6]]))
        prior.logits.copy_(torch.tensor([1.0, 3.0, 2.0]))
    return prior


def test_standard_normal_is_the_closed_form() -> None:
    z = torch.randn(5, 7, 3, dtype=torch.float64)
    p_z = StandardNormal(3).double()()
    assert (p_z.batch_shape, p_z.event_shape) == ((), (3,))
    expected = -0.5 * z.square().sum(-1) - 1.5 * math.log(2 * math.pi)
    torch.testing.assert_close(p_z.log_prob(z), expected, rtol=0, atol=1e-12)


def test_standard_normal_samples_have_mean_zero_and_identity_covariance() -> None:
    z = StandardNormal(3)().sample((40_000,))
    assert z.shape == (40_000, 3)
    # Standard error 1/200 of each mean, at most √2/200 of each covariance.
    torch.testing.assert_close(z.mean(0), torch.zeros(3), rtol=0, atol=0.02)
    torch.testing.assert_close(z.T.cov(), torch.eye(3), rtol=0, atol=0.03)


def test_standard_normal_follows_its_module_and_has_no_weights() -> None:
    prior = StandardNormal(3)
    assert prior.state_dict() == {}
    assert list(prior.parameters()) == []
    assert prior().sample().dtype == torch.float32
    assert prior.double()().sample().dtype == torch.float64
    on_meta = prior.to("meta")()
    assert on_meta.base_dist.loc.device.type == on_meta.base_dist.scale.device.type == "meta"


def test_mixture_is_a_log_sum_exp_of_whole_densities() -> None:
    prior = mixture()
    z = torch.randn(5, 7, 2, dtype=torch.float64)
    p_z = prior()
    assert (p_z.batch_shape, p_z.event_shape) == ((), (2,))
    whole = [
        MultivariateNormal(loc, torch.diag((2 * log_scale).exp())).log_prob(z)
        for loc, log_scale in zip(prior.loc, prior.log_scale, strict=True)
    ]
    log_weights = prior.logits - prior.logits.exp().sum().log()
    expected = torch.logsumexp(torch.stack(whole, -1) + log_weights, -1)
    torch.testing.assert_close(p_z.log_prob(z), expected, rtol=0, atol=1e-12)


def test_mixture_is_not_a_product_of_mixtures_per_dimension() -> None:
    prior = mixture()
    z = torch.randn(50, 2, dtype=torch.float64)
    each = torch.distributions.Normal(prior.loc, prior.log_scale.exp()).log_prob(z[:, None])
    product = torch.logsumexp(each + prior.logits.log_softmax(0)[:, None], dim=1).sum(-1)
    assert ((prior().log_prob(z) - product).abs() > 0.1).double().mean() > 0.5


def test_mixture_integrates_to_one() -> None:
    axis = torch.linspace(-12, 12, 601, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    total = mixture()().log_prob(z).exp().sum() * (axis[1] - axis[0]) ** 2
    assert total.item() == pytest.approx(1, abs=1e-9)


def test_mixture_samples_components_by_weight() -> None:
    prior = mixture()
    with torch.no_grad():
        prior.log_scale.fill_(math.log(0.01))
    n = 20_000
    nearest = torch.cdist(prior().sample((n,)), prior.loc.detach()).argmin(-1)
    found = nearest.bincount(minlength=3) / n
    weights = prior.logits.detach().softmax(0)
    error = (weights * (1 - weights) / n).sqrt()
    assert ((found - weights).abs() < 4 * error).all()


def test_mixture_samples_have_the_scales_of_their_component() -> None:
    prior = mixture()
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.0, -1e4, -1e4]))
    z = prior().sample((40_000,))
    scale = prior.log_scale[0].exp().detach()
    torch.testing.assert_close(z.mean(0), prior.loc[0].detach(), rtol=0, atol=0.025)
    torch.testing.assert_close(z.std(0), scale, rtol=0.02, atol=0)


def test_every_parameter_of_a_mixture_gets_a_gradient() -> None:
    prior = GaussianMixture(2, 3)
    prior().log_prob(torch.randn(20, 2)).sum().backward()
    assert {name for name, _ in prior.named_parameters()} == {"loc", "log_scale", "logits"}
    for name, parameter in prior.named_parameters():
        assert parameter.grad is not None and parameter.grad.all(), name


def test_mixture_components_start_apart() -> None:
    loc = GaussianMixture(2, 5).loc
    assert torch.pdist(loc).min() > 0


@pytest.mark.parametrize("features", [0, -1])
def test_standard_normal_without_features_is_refused(features: int) -> None:
    with pytest.raises(InputError, match=rf"\A[^\n]*at least 1 feature, got {features}\Z"):
        StandardNormal(features)


@pytest.mark.parametrize(("features", "components"), [(0, 3), (2, 0), (2, -1)])
def test_mixture_without_features_or_components_is_refused(features: int, components: int) -> None:
    with pytest.raises(InputError, match=rf"\A[^\n]*got {features}, {components}\Z"):
        GaussianMixture(features, components)
