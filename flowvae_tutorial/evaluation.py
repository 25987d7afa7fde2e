"""What is reported of a trained model: NLL with its standard error, the ELBO's parts, the rest."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from .arguments import whole
from .distributions import Chain, rsample_and_log_prob
from .errors import InputError
from .mixtures import Mixture
from .networks import evaluating
from .vae import VAE

# Rows evaluated at once, for the ELBO of a whole test set; latents, for its surgery.
ROWS = 1000
# Averaged where a posterior's mean has no closed form.
MEAN_SAMPLES = 256


class Evaluation(NamedTuple):
    """Figures of one model on one data set, in nats per example."""

    nll: Tensor
    """Minus the importance-sampled log-likelihood of each example, `(N,)`."""
    reconstruction: float
    kl: tuple[float, ...]
    """Of each level of a hierarchy, the top first; otherwise one number."""
    active: Tensor
    """Which latent units are active, `(D,)`."""

    @property
    def elbo(self) -> float:
        """The evidence lower bound, averaged over the examples."""
        return self.reconstruction - sum(self.kl)


def mean_and_standard_error(values: Tensor) -> tuple[float, float]:
    """The mean of independent values `(N,)` and the standard error of that mean."""
    if values.numel() < 2:
        raise InputError("a standard error needs at least two values")
    return values.mean().item(), (values.std() / values.numel() ** 0.5).item()


@torch.no_grad()
def evaluate(
    vae: VAE,
    x: Tensor,
    num_samples: int = 1000,
    elbo_samples: int = 20,
    nll: Tensor | None = None,
) -> Evaluation:
    """Evaluate a model, in evaluation mode, on x `(N, X)`.

    Args:
        vae: the model.
        x: `(N, X)`, on the model's device.
        num_samples: S of the importance-sampled log-likelihood.
        elbo_samples: posterior samples per example for the ELBO's parts.
        nll: `(N,)`, if it has been estimated already.

    Raises:
        InputError: x has the wrong shape, dtype or values, or a number of samples is none.

    Example:
        >>> from flowvae_tutorial import build, evaluate, mean_and_standard_error
        >>> from flowvae_tutorial.data import load
        >>> data = load("rings")
        >>> result = evaluate(build("gaussian", data), data.test[:100], num_samples=10)
        >>> nll, standard_error = mean_and_standard_error(result.nll)  # nats per example
        >>> result.nll.shape, len(result.kl), result.active.shape
        (torch.Size([100]), 1, torch.Size([2]))
    """
    # Before the long part, not after it.
    elbo_samples = whole(elbo_samples, "elbo_samples")
    with evaluating(vae, vae.prior, vae.posterior, vae.likelihood):
        if nll is None:
            nll = -vae.log_marginal(x, num_samples)
        parts = [elbo_by_level(vae, rows, elbo_samples) for rows in x.split(ROWS)]
        reconstruction = torch.cat([part[0] for part in parts], dim=1).mean()
        kl = torch.cat([part[1] for part in parts], dim=2).mean(dim=(1, 2))
        return Evaluation(nll, reconstruction.item(), tuple(kl.tolist()), active_units(vae, x))


@torch.no_grad()
def elbo_by_level(vae: VAE, x: Tensor, num_samples: int) -> tuple[Tensor, Tensor]:
    """Estimate the ELBO's terms with the KL term of each level apart (`eq-kl-levels`).

    Args:
        vae: the model.
        x: `(N, X)`.
        num_samples: S, posterior samples per example.

    Returns:
        reconstruction `(S, N)`, and KL `(L, S, N)` with L = 2 levels, the top first, if prior
        and posterior are both a `Chain`, else L = 1. Nats per example.

    Raises:
        InputError: x has the wrong shape, dtype or values, or `num_samples` < 1.
    """
    num_samples = vae._check(x, num_samples)
    q, p = vae.posterior(x), vae.prior()
    z, log_q = rsample_and_log_prob(q, (num_samples,))
    if isinstance(q, Chain) and isinstance(p, Chain):
        levels = zip(q.log_prob_parts(z), p.log_prob_parts(z), strict=True)
        kl = torch.stack([log_q_level - log_p_level for log_q_level, log_p_level in levels])
    else:
        kl = (log_q - p.log_prob(z)).unsqueeze(0)
    return vae.likelihood(z).log_prob(x), kl


class Surgery(NamedTuple):
    """The three parts of the average ELBO, in nats per example (equation `eq-surgery`)."""

    reconstruction: float
    mutual_information: float
    """Of the code and the index of the example; at most log N."""
    marginal_kl: float
    """From the aggregated posterior of the same examples to the prior."""


@torch.no_grad()
def elbo_surgery(vae: VAE, x: Tensor, num_samples: int = 10) -> Surgery:
    """Estimate what the KL term of x `(N, X)` is made of. Hoffman and Johnson (2016).

    Takes time O(S N²), and memory O(N), in parts.

    Args:
        vae: the model.
        x: `(N, X)`, all examples over which q(z) is aggregated.
        num_samples: S, posterior samples per example.

    Raises:
        InputError: x has the wrong shape, dtype or values.
    """
    num_samples = vae._check(x, num_samples)
    z, log_q = rsample_and_log_prob(vae.posterior(x), (num_samples,))
    aggregated, p = aggregated_posterior(vae, x), vae.prior()
    rows = max(1, ROWS // num_samples)
    parts = [
        (vae.likelihood(some).log_prob(seen), aggregated.log_prob(some), p.log_prob(some))
        for some, seen in zip(z.split(rows, dim=1), x.split(rows), strict=True)
    ]
    reconstruction, log_aggregated, log_p = (
        torch.cat(terms, dim=1) for terms in zip(*parts, strict=True)
    )
    return Surgery(
        reconstruction=reconstruction.mean().item(),
        mutual_information=(log_q - log_aggregated).mean().item(),
        marginal_kl=(log_aggregated - log_p).mean().item(),
    )


@torch.no_grad()
def active_units(vae: VAE, x: Tensor, threshold: float = 0.01) -> Tensor:
    """Which latent units vary with the data: `(D,)`, booleans (equation `eq-active-units`).

    A unit is active if the variance over x of its posterior mean exceeds `threshold`. Burda et
    al. (2016). The means of a flow and of a hierarchy have no closed form: each is the average of
    `MEAN_SAMPLES` samples, and the variance that the average has of its own is subtracted.

    Raises:
        InputError: x has the wrong shape, dtype or values, or fewer than the two examples that a
            variance needs.
    """
    vae._check(x)
    if len(x) < 2:
        raise InputError(f"active units need at least 2 examples, got {len(x)}")
    each = [_mean_and_noise(vae.posterior(rows)) for rows in x.split(ROWS)]
    means, noise = (torch.cat(parts) for parts in zip(*each, strict=True))
    return means.var(dim=0) - noise.mean(dim=0) > threshold


def _mean_and_noise(distribution: Distribution) -> tuple[Tensor, Tensor]:
    """The mean, and the variance of its estimate."""
    try:
        return distribution.mean, torch.zeros_like(distribution.mean)
    except NotImplementedError:
        z = distribution.sample(torch.Size([MEAN_SAMPLES]))
        return z.mean(dim=0), z.var(dim=0) / MEAN_SAMPLES


def aggregated_posterior(vae: VAE, x: Tensor) -> Distribution:
    """q(z) = (1/N) Σₙ q(z | xₙ), a mixture of N components (equation `eq-aggregated`).

    `Mixture` says what a density costs.

    Raises:
        InputError: x has the wrong shape, dtype or values.
    """
    vae._check(x)
    return Mixture(vae.posterior(x), x.new_zeros(len(x)), validate_args=False)


@torch.no_grad()
def prior_gap(vae: VAE, train: Tensor, test: Tensor, components: int = 20) -> Tensor:
    """Nats per test example that a better prior would win for the same encoder and decoder.

    Fits a full-covariance Gaussian mixture p̂ by EM to latents of the training images and
    returns log p̂(z) − log p(z) at one latent z of each test image, `(N,)`. Its mean is, in
    expectation, a lower bound on the KL divergence from the aggregated posterior to the prior
    (equation `eq-prior-gap`); the test latents take no part in the fit, so overfitting lowers it.

    Args:
        vae: the model; its prior is the p(z) compared with.
        train: `(M, X)`, the images whose latents are fitted.
        test: `(N, X)`, the images on which both densities are compared.
        components: of the mixture.

    Raises:
        InputError: one of the sets has the wrong shape, dtype or values, or there are fewer
            training latents than components.
    """
    for x in (train, test):
        vae._check(x)
    components = whole(components, "components", least=0)
    if not 1 <= components <= 10 * len(train):
        raise InputError(
            f"cannot fit {components} components to the latents of {len(train)} images, ten each: "
            f"take between 1 and {10 * len(train)}"
        )
    from sklearn.mixture import GaussianMixture as FittedMixture

    z_train = torch.cat([vae.posterior(train).sample() for _ in range(10)])
    z_test = vae.posterior(test).sample()
    fitted = FittedMixture(components, random_state=0, reg_covar=1e-4).fit(z_train.cpu().double())
    better = torch.from_numpy(fitted.score_samples(z_test.cpu().double())).to(z_test)
    p_z: Distribution = vae.prior()
    return better - p_z.log_prob(z_test)
