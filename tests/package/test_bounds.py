"""The importance-weighted bound, its doubly reparametrised gradient, and a mended Gaussian."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from flowvae_tutorial import VAE, GaussianPosterior, InputError, VampPrior, build
from flowvae_tutorial.bounds import dreg_loss, iwae_bound, semi_amortised
from flowvae_tutorial.data import load

LinearGaussian = Callable[..., Any]


def gradients(vae: VAE, loss: Tensor) -> Tensor:
    """Of all weights, as one vector."""
    weights = [weight for weight in vae.parameters() if weight.requires_grad]
    found = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
    return torch.cat([each.flatten() for each in found])


def plain_loss(vae: VAE, x: Tensor, num_samples: int) -> Tensor:
    return -iwae_bound(vae, x, num_samples).mean()


def drawn(loss: Callable[..., Tensor], vae: VAE, x: Tensor, k: int, draws: int = 400) -> Tensor:
    """Gradients of a loss, `(draws, weights)`, on many copies of x, so that draws are cheap."""
    return torch.stack([gradients(vae, loss(vae, x.repeat(10, 1), k)) for _ in range(draws)])


def with_vampprior(exact: Any) -> VAE:
    """The oracle's model under a prior that is made of its posterior."""
    posterior: GaussianPosterior = exact.vae.posterior
    prior = VampPrior(posterior, exact.data(3), torch.zeros(3).double(), bounds=None).double()
    return VAE(prior, posterior, exact.vae.likelihood)


# --- the bound ----------------------------------------------------------------------------------


def test_the_bound_of_one_sample_is_the_elbo(linear_gaussian: LinearGaussian) -> None:
    exact = linear_gaussian(widen=1.5)
    x = exact.data(20)
    torch.manual_seed(1)
    elbo = exact.vae.elbo(x).value[0]
    torch.manual_seed(1)
    torch.testing.assert_close(iwae_bound(exact.vae, x, 1), elbo)


@torch.no_grad()
def test_the_bound_rises_with_its_samples_to_log_p(linear_gaussian: LinearGaussian) -> None:
    exact = linear_gaussian(widen=1.7)
    x = exact.data(20)
    log_p = exact.log_p(x).mean()
    means = []
    for k in (1, 2, 8, 64, 512):
        many = iwae_bound(exact.vae, x.repeat(200, 1), k)
        means.append(many.mean())
    assert all(low + 0.005 < high for low, high in pairwise(means[:4]))
    assert log_p - means[0] > 0.5
    torch.testing.assert_close(means[-1], log_p, rtol=0, atol=0.01)
    assert torch.stack(means).max() < log_p + 0.01


@torch.no_grad()
def test_it_is_the_estimate_of_log_marginal(linear_gaussian: LinearGaussian) -> None:
    exact = linear_gaussian(widen=1.5)
    x = exact.data(5)
    torch.manual_seed(1)
    estimate = exact.vae.log_marginal(x, 30)
    torch.manual_seed(1)
    torch.testing.assert_close(iwae_bound(exact.vae, x, 30), estimate)


# --- the gradient -------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["gaussian", "vampprior-k9", "flow-both", "hvae"])
def test_of_one_sample_it_is_the_path_gradient_of_the_elbo(model: str) -> None:
    digits = load("digits")
    vae, x = build(model, digits).double(), digits.test[:9].double()
    torch.manual_seed(1)
    loss = vae.loss(x)
    torch.manual_seed(1)
    found = dreg_loss(vae, x, 1)
    torch.testing.assert_close(found, loss)
    torch.testing.assert_close(gradients(vae, found), gradients(vae, loss), rtol=1e-7, atol=1e-9)


def test_its_value_is_minus_the_bound(linear_gaussian: LinearGaussian) -> None:
    exact = linear_gaussian(widen=1.5)
    x = exact.data(5)
    for context in (torch.enable_grad, torch.no_grad):
        with context():
            torch.manual_seed(1)
            loss = dreg_loss(exact.vae, x, 8)
            torch.manual_seed(1)
            torch.testing.assert_close(loss, plain_loss(exact.vae, x, 8))


@pytest.mark.parametrize("prior", ["standard", "vamp"])
def test_its_mean_is_the_plain_gradient_and_its_spread_is_smaller(
    linear_gaussian: LinearGaussian, prior: str
) -> None:
    exact = linear_gaussian(widen=1.5)
    vae = exact.vae if prior == "standard" else with_vampprior(exact)
    x = exact.data(4)
    plain, quiet = (drawn(loss, vae, x, 8) for loss in (plain_loss, dreg_loss))
    error = (plain.var(0) / len(plain) + quiet.var(0) / len(quiet)).sqrt()
    apart = (plain.mean(0) - quiet.mean(0)) / error.clamp_min(1e-12)
    assert apart.abs().max() < 4.5
    of_encoder = torch.cat([
        torch.full((weight.numel(),), weight_is(weight, vae.posterior))
        for weight in vae.parameters() if weight.requires_grad
    ])  # fmt: skip
    spread = [each[:, of_encoder].var(0).sum() for each in (plain, quiet)]
    assert spread[1] < 0.6 * spread[0]


def weight_is(weight: Tensor, module: torch.nn.Module) -> bool:
    return any(weight is each for each in module.parameters())


def squared_everywhere(vae: VAE, x: Tensor, k: int) -> Tensor:
    """The slip: the square of the share also where the prior looks at a latent that is held."""
    q = vae.posterior(x)
    z = q.rsample((k,))
    log_weight = vae.likelihood(z).log_prob(x) + vae.prior().log_prob(z) - q.log_prob(z)
    score = q.log_prob(z.detach())
    share = log_weight.detach().softmax(0)
    return -(share**2 * (log_weight + score - score.detach())).sum(0).mean()


def test_with_the_prior_s_share_squared_the_mean_is_another(
    linear_gaussian: LinearGaussian,
) -> None:
    exact = linear_gaussian(widen=1.5)
    vae, x = with_vampprior(exact), exact.data(4)
    plain, wrong = (drawn(loss, vae, x, 8, 150) for loss in (plain_loss, squared_everywhere))
    error = (plain.var(0) / len(plain) + wrong.var(0) / len(wrong)).sqrt()
    assert ((plain.mean(0) - wrong.mean(0)) / error.clamp_min(1e-12)).abs().max() > 10


def test_where_the_posterior_is_exact_it_has_no_noise(linear_gaussian: LinearGaussian) -> None:
    exact = linear_gaussian()
    x = exact.data(6)
    weights = list(exact.vae.posterior.parameters())
    quiet = torch.autograd.grad(dreg_loss(exact.vae, x, 8), weights)
    plain = torch.autograd.grad(plain_loss(exact.vae, x, 8), weights)
    assert max(part.abs().max() for part in quiet) < 1e-12
    assert max(part.abs().max() for part in plain) > 1e-2


@pytest.mark.parametrize("loss", [iwae_bound, dreg_loss])
@pytest.mark.parametrize("count", [0, 1.5, True])
def test_what_is_no_count_is_refused(
    linear_gaussian: LinearGaussian, loss: Any, count: Any
) -> None:
    exact = linear_gaussian()
    with pytest.raises(InputError, match=r"\A[^\n]*num_samples[^\n]*\Z"):
        loss(exact.vae, exact.data(3), count)


# --- a mended Gaussian --------------------------------------------------------------------------


@torch.no_grad()
def gap(exact: Any, q: Any, x: Tensor) -> float:
    z = q.rsample((4000,))
    vae = exact.vae
    elbo = vae.likelihood(z).log_prob(x) + vae.prior().log_prob(z) - q.log_prob(z)
    missing: Tensor = exact.log_p(x) - elbo.mean(0)
    return missing.mean().item()


def test_steps_of_ascent_close_the_gap_of_a_wrong_encoder(linear_gaussian: LinearGaussian) -> None:
    exact = linear_gaussian(widen=2.5)
    with torch.no_grad():
        exact.vae.posterior.net.bias[:2] += 0.5
    x = exact.data(50)
    gaps = [gap(exact, semi_amortised(exact.vae, x, steps), x) for steps in (0, 1, 3, 60)]
    assert gaps[0] == pytest.approx(gap(exact, exact.vae.posterior(x), x), abs=0.05)
    assert all(less < more - 0.05 for more, less in pairwise(gaps))
    assert gaps[-1] < 0.1


def test_a_gaussian_that_is_right_stays(linear_gaussian: LinearGaussian) -> None:
    exact = linear_gaussian()
    x = exact.data(10)
    mended, q = semi_amortised(exact.vae, x, 20), exact.vae.posterior(x)
    torch.testing.assert_close(mended.mean, q.mean, rtol=0, atol=0.03)
    torch.testing.assert_close(mended.stddev, q.stddev, rtol=0.05, atol=0)


def test_no_weight_gets_a_gradient_and_each_example_moves_on_its_own() -> None:
    digits = load("digits")
    vae, x = build("vampprior-k9", digits), digits.test[:4]
    mended = semi_amortised(vae, x, 3)
    assert not mended.mean.requires_grad and mended.batch_shape == (4,)
    assert all(weight.grad is None for weight in vae.parameters())
    assert all(weight.requires_grad for name, weight in vae.named_parameters() if "raw" not in name)


def test_a_posterior_that_is_no_gaussian_is_refused() -> None:
    digits = load("digits")
    vae = build("flow-posterior", digits)
    with pytest.raises(InputError, match=r"\A[^\n]*is a Flow: give it[^\n]*\Z"):
        semi_amortised(vae, digits.test[:3], 2)
