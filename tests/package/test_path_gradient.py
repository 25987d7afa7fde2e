"""The loss has the path gradient: that of the ELBO without the posterior's score."""

import dataclasses
import math
from types import ModuleType

import pytest
import torch
from torch import Tensor

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


def plain_loss(vae: VAE, x: Tensor, beta: float = 1.0) -> Tensor:
    elbo = vae.elbo(x)
    return (beta * elbo.kl - elbo.reconstruction).mean()


def gradients(value: Tensor, vae: VAE) -> list[Tensor]:
    weights = [weight for weight in vae.parameters() if weight.requires_grad]
    return list(torch.autograd.grad(value, weights, allow_unused=True, materialize_grads=True))


def assert_the_score_alone_is_missing(vae: VAE, x: Tensor, beta: float) -> None:
    torch.manual_seed(1)
    whole = plain_loss(vae, x, beta)
    torch.manual_seed(1)
    q = vae.posterior(x)
    z, _ = rsample_and_log_prob(q, (1,))
    score = gradients(beta * q.log_prob(z.detach()).mean(), vae)
    torch.manual_seed(1)
    path = vae.loss(x, beta)
    assert torch.equal(path, whole), "the value is the same to the last bit"
    for one, all_of_it, part in zip(
        gradients(path, vae), gradients(whole, vae), score, strict=True
    ):
        torch.testing.assert_close(one, all_of_it - part, rtol=1e-6, atol=1e-8)
    assert any(part.abs().max() > 1e-3 * beta for part in score)


@pytest.mark.parametrize(
    ("model", "beta"),
    [("gaussian", 1.0), ("gaussian", 0.3), ("vampprior-k9", 1.0), ("flow-both", 4.0),
     ("hierarchical-vampprior-k9", 1.0), ("spline-flow-posterior", 1.0)],
)  # fmt: skip
def test_the_path_gradient_is_the_whole_gradient_without_the_score(
    few: Data, model: str, beta: float
) -> None:
    torch.manual_seed(0)
    vae = build(model, few)
    assert_the_score_alone_is_missing(vae.double(), few.validation.double(), beta)


@pytest.mark.parametrize("name", ["NSF", "MAF", "RealNVP"])
def test_a_posterior_of_zukos_has_it_too(zuko: ModuleType, name: str) -> None:
    flow = getattr(zuko.flows, name)(2, 5, transforms=2, hidden_features=(8,))
    vae = VAE(StandardNormal(2), flow, GaussianLikelihood(torch.nn.Linear(2, 5), features=5))
    assert_the_score_alone_is_missing(vae.double(), torch.randn(9, 5).double(), beta=0.5)


def test_a_posterior_that_is_held_has_no_score_and_the_prior_learns_as_before(few: Data) -> None:
    vae = build("two-stage-flow-prior", few, first=build("gaussian", few))
    x = few.validation
    torch.manual_seed(1)
    expected = gradients(plain_loss(vae, x, 0.7), vae)
    torch.manual_seed(1)
    vae.loss(x, 0.7).backward()
    assert {name for name, weight in vae.named_parameters() if weight.grad is not None} == {
        name for name, _ in vae.named_parameters() if name.startswith("prior.")
    }
    found = [weight.grad for weight in vae.parameters() if weight.requires_grad]
    assert all(map(torch.equal, found, expected))
    with torch.no_grad():
        assert not vae.loss(x).requires_grad


@pytest.mark.parametrize("model", ["vampprior-k9", "flow-posterior"])
def test_traced_for_a_compiler_it_is_the_same(few: Data, model: str) -> None:
    vae, x = build(model, few), few.validation
    compiled = torch.compile(vae, backend="aot_eager", fullgraph=True)
    torch.manual_seed(1)
    expected = gradients(vae(x, 0.7), vae)
    torch.manual_seed(1)
    found = gradients(compiled(x, 0.7), vae)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


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
