"""What the parts of a VAE share, and what happens when a part is exchanged or only lent."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from flowvae_tutorial import (
    VAE,
    BernoulliLikelihood,
    GaussianLikelihood,
    GaussianPosterior,
    InputError,
    StandardNormal,
    VampPrior,
    build,
    evaluate,
    fit,
    mlp,
)
from flowvae_tutorial.data import Data, load
from flowvae_tutorial.storage.trained import load_trained

X, D = 6, 2


def gaussian(latent: int = D) -> GaussianPosterior:
    return GaussianPosterior(mlp(X, (8,), 2 * latent))


def likelihood(latent: int = D) -> GaussianLikelihood:
    return GaussianLikelihood(mlp(latent, (8,), X), X)


def vamp() -> VAE:
    posterior = gaussian()
    return VAE(VampPrior(posterior, torch.rand(5, X)), posterior, likelihood())


# --- parts that are exchanged -----------------------------------------------------------------


def refused(vae: VAE, name: str, value: object, says: str) -> None:
    before, x = [n for n, _ in vae.named_parameters()], torch.rand(3, X)
    part = getattr(vae, name)
    with pytest.raises(InputError, match=rf"\A[^\n]*{says}[^\n]*\Z"):
        setattr(vae, name, value)
    assert getattr(vae, name) is part, "the model is left as it was"
    assert [n for n, _ in vae.named_parameters()] == before
    assert vae.elbo(x).value.isfinite().all()


def test_a_posterior_that_the_prior_does_not_mix_is_refused() -> None:
    refused(vamp(), "posterior", gaussian(), "prior mixes another posterior than the VAE's")
    refused(vamp(), "prior", vamp().prior, "prior mixes another posterior than the VAE's")


def test_a_part_that_does_not_fit_the_two_that_stay_is_refused() -> None:
    refused(vamp(), "prior", StandardNormal(3), r"does not take the prior's latents of shape \(3,")
    refused(vamp(), "likelihood", likelihood(3), "does not take the prior's latents")
    vae = VAE(StandardNormal(D), gaussian(), likelihood())
    refused(vae, "posterior", gaussian(3), r"posterior's latents have shape \(3,\)")


def test_a_part_that_fits_is_exchanged_and_used() -> None:
    vae, x = vamp(), (torch.rand(4, X) > 0.5).float()
    other, state = gaussian(), torch.get_rng_state()
    vae.prior = StandardNormal(D)
    vae.posterior = other
    assert torch.equal(torch.get_rng_state(), state)
    assert vae.posterior is other and not any("raw" == n for n, _ in vae.prior.named_parameters())
    assert vae.elbo(0.5 * x).value.isfinite().all()
    vae.likelihood = BernoulliLikelihood(mlp(D, (8,), X))
    assert vae.elbo(x).value.isfinite().all()
    with pytest.raises(InputError, match="a Bernoulli likelihood takes 0 and 1 only"):
        vae.elbo(0.5 * x)


# --- batch normalisation under a VampPrior ----------------------------------------------------


def normalised(layer: nn.Module) -> GaussianPosterior:
    return GaussianPosterior(nn.Sequential(nn.Linear(X, 8), layer, nn.Linear(8, 2 * D)))


GIVEN: dict[str, Callable[[GaussianPosterior], Callable[[Tensor], Distribution]]] = {
    "module": lambda posterior: posterior,
    "method": lambda posterior: posterior.forward,
    "function": lambda posterior: lambda x: posterior(x),
}


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("count", [1, 5])
def test_a_vampprior_refuses_batch_normalisation_and_leaves_its_statistics(
    given: str, count: int
) -> None:
    posterior = normalised(nn.BatchNorm1d(8))
    before = copy.deepcopy(posterior.state_dict())
    with pytest.raises(InputError, match=r"\A[^\n]*uses batch normalisation[^\n]*\Z"):
        VampPrior(GIVEN[given](posterior), torch.rand(count, X))
    after = posterior.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    posterior(torch.rand(5, X))  # on its own it is as it was: no hook is left behind
    VampPrior(normalised(nn.LayerNorm(8)), torch.rand(count, X))


# --- parts that are methods -------------------------------------------------------------------


class Own(nn.Module):
    """A reader's own encoder, with batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(X, 8), nn.BatchNorm1d(8), nn.Linear(8, 2 * D))

    def posterior(self, x: Tensor) -> Distribution:
        loc, log_scale = self.body(x).chunk(2, dim=-1)
        return Independent(Normal(loc, log_scale.exp()), 1)


def test_a_method_with_batch_normalisation_is_looked_at_in_evaluation_mode() -> None:
    own = Own()
    before = copy.deepcopy(own.state_dict())
    VAE(StandardNormal(D), own.posterior, likelihood())
    assert own.training and own.body[1].training
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())


def test_the_mode_reaches_the_module_whose_method_is_a_part() -> None:
    own = Own()
    vae = VAE(StandardNormal(D), own.posterior, likelihood())
    assert not vae.eval().training and not any(module.training for module in own.modules())
    assert vae.log_marginal(torch.rand(1, X), 10).isfinite().all(), "a single example in training"
    vae.train()
    assert all(module.training for module in own.modules())


def test_a_module_that_holds_the_vae_to_which_it_lends_a_method_has_a_mode() -> None:
    own = Own()
    own.vae = VAE(StandardNormal(D), own.posterior, likelihood())
    assert not any(module.training for module in own.eval().modules())
    assert all(module.training for module in own.train().modules())


def test_a_model_is_judged_in_evaluation_mode_and_left_in_its_own() -> None:
    own = Own()
    vae, x = VAE(StandardNormal(D), own.posterior, likelihood()), torch.rand(20, X)
    before = copy.deepcopy(own.state_dict())
    results = []
    for mode in (True, False):
        torch.manual_seed(0)
        results.append(evaluate(vae.train(mode), x, num_samples=5, elbo_samples=2))
        assert all(module.training == mode for module in own.modules())
    assert torch.equal(results[0].nll, results[1].nll) and results[0].kl == results[1].kl
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())


@pytest.fixture
def rings() -> Data:
    data = load("rings")
    return replace(data, train=data.train[:100], validation=data.validation[:50])


def test_fit_refuses_a_part_that_it_would_not_train(rings: Data) -> None:
    lent, decoder = GaussianPosterior(mlp(2, (8,), 4)), GaussianLikelihood(mlp(2, (8,), 2), 2)
    vae = VAE(StandardNormal(2), lent.forward, decoder)
    with pytest.raises(InputError, match=r"\A[^\n]*the posterior is a method[^\n]*\Z"):
        fit(vae, rings, epochs=1)
    fit(VAE(StandardNormal(2), lent, decoder), rings, epochs=1)


# --- two stages -------------------------------------------------------------------------------


def test_a_model_of_two_stages_without_its_first_is_refused_in_one_line(rings: Data) -> None:
    says = r"\A[^\n]*trained 'gaussian': train that, then build\([^\n]*, first=trained\)\Z"
    state = torch.get_rng_state()
    with pytest.raises(InputError, match=says):
        build("two-stage-flow-prior", rings)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_second_stage_trains_the_prior_and_nothing_else(rings: Data, tmp_path: Path) -> None:
    first = build("gaussian", rings)
    fit(first, rings, epochs=1)
    held = copy.deepcopy(first.state_dict())
    vae = build("two-stage-flow-prior", rings, first=first)
    start = copy.deepcopy(vae.prior.state_dict())
    path, name = tmp_path / "checkpoint.pt", "two-stage-flow-prior"
    fit(vae, rings, epochs=1, name=name, checkpoint=path)
    for stage in ("posterior.", "likelihood."):
        names = [name for name in held if name.startswith(stage)]
        assert names and all(torch.equal(vae.state_dict()[name], held[name]) for name in names)
    assert any(not torch.equal(vae.prior.state_dict()[name], start[name]) for name in start)
    again = load_trained(path).vae
    learns = {name.split(".")[0] for name, p in again.named_parameters() if p.requires_grad}
    assert learns == {"prior"}, "nor does one that is read back train them"
