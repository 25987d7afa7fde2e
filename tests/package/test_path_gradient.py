"""The loss has the path gradient: that of the ELBO without the posterior's score."""

import dataclasses
import math

import pytest
import torch

from flowvae_tutorial import (
    VAE,
    GaussianLikelihood,
    GaussianPosterior,
    StandardNormal,
    build,
    rsample_and_log_prob,
)
from flowvae_tutorial.data import Data, load


@pytest.fixture
def few() -> Data:
    data = load("digits")
    return dataclasses.replace(data, train=data.train[:64], validation=data.validation[:32])


def plain_loss(vae: VAE, x: torch.Tensor) -> torch.Tensor:
    return -vae.elbo(x).value.mean()


@pytest.mark.parametrize(
    "model",
    ["gaussian", "vampprior-k9", "hierarchical-vampprior-k9", "flow-both", "spline-flow-posterior"],
)
def test_the_path_gradient_is_the_whole_gradient_without_the_score(few: Data, model: str) -> None:
    torch.manual_seed(0)
    vae = build(model, few).double()
    x = few.validation.double()
    torch.manual_seed(1)
    whole = plain_loss(vae, x)
    weights = list(vae.parameters())
    gradient = torch.autograd.grad(whole, weights, allow_unused=True, materialize_grads=True)
    torch.manual_seed(1)
    q = vae.posterior(x)
    z, _ = rsample_and_log_prob(q, (1,))
    held = q.log_prob(z.detach()).mean()
    score = torch.autograd.grad(held, weights, allow_unused=True, materialize_grads=True)
    torch.manual_seed(1)
    path = vae.loss(x)
    assert path.item() == pytest.approx(whole.item(), abs=1e-9)
    found = torch.autograd.grad(path, weights, allow_unused=True, materialize_grads=True)
    for one, all_of_it, without in zip(found, gradient, score, strict=True):
        torch.testing.assert_close(one, all_of_it - without, rtol=1e-6, atol=1e-8)
    assert any(part.abs().max() > 1e-3 for part in score)


def test_where_the_posterior_is_exact_the_path_gradient_has_no_noise() -> None:
    # x = z + noise of variance 1: the posterior is N(x / 2, 1/2).
    encoder, decoder = torch.nn.Linear(1, 2), torch.nn.Linear(1, 1)
    posterior, likelihood = GaussianPosterior(encoder), GaussianLikelihood(decoder, features=1)
    vae = VAE(StandardNormal(1), posterior, likelihood).double()
    with torch.no_grad():
        encoder.weight.copy_(torch.tensor([[0.5], [0.0]]))
        encoder.bias.copy_(torch.tensor([0.0, 0.5]).double().log().nan_to_num(neginf=0.0) / 2)
        decoder.weight.fill_(1.0)
        decoder.bias.fill_(0.0)
        likelihood.raw_scale.fill_(math.log(math.expm1(1 - likelihood.min_scale)))
    x = torch.randn(50, 1).double()
    weights = list(posterior.parameters())
    path = torch.autograd.grad(vae.loss(x), weights)
    plain = torch.autograd.grad(plain_loss(vae, x), weights)
    assert max(part.abs().max() for part in path) < 1e-12
    assert max(part.abs().max() for part in plain) > 1e-2
