"""What is reported of a trained model: NLL with its standard error, the ELBO's parts, the rest."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily

from .errors import InputError
from .vae import VAE

# Rows evaluated at once, for the ELBO of a whole test set.
ROWS = 1000


class Evaluation(NamedTuple):
    """Figures of one model on one data set, in nats per example."""

    nll: Tensor
    """Minus the importance-sampled log-likelihood of each example, `(N,)`."""
    reconstruction: float
    kl: float
    active: Tensor
    """Which latent units are active, `(D,)`."""

    @property
    def elbo(self) -> float:
        """The evidence lower bound, averaged over the examples."""
        return self.reconstruction - self.kl


def mean_and_standard_error(values: Tensor) -> tuple[float, float]:
    """The mean of independent values `(N,)` and the standard error of that mean."""
    if values.numel() < 2:
        raise InputError("a standard error needs at least two values")
    return values.mean().item(), (values.std() / values.numel() ** 0.5).item()


@torch.no_grad()
def evaluate(vae: VAE, x: Tensor, num_samples: int = 1000, elbo_samples: int = 20) -> Evaluation:
    """Evaluate a model on x `(N, X)`.

    Args:
        vae: the model.
        x: `(N, X)`, on the model's device.
        num_samples: S of the importance-sampled log-likelihood.
        elbo_samples: posterior samples per example for the ELBO's parts.

    Raises:
        InputError: x has the wrong shape, dtype or values.
    """
    nll = -vae.log_marginal(x, num_samples)
    parts = [vae.elbo(rows, elbo_samples) for rows in x.split(ROWS)]
    return Evaluation(
        nll=nll,
        reconstruction=torch.cat([p.reconstruction.mean(0) for p in parts]).mean().item(),
        kl=torch.cat([p.kl.mean(0) for p in parts]).mean().item(),
        active=active_units(vae, x),
    )


@torch.no_grad()
def active_units(vae: VAE, x: Tensor, threshold: float = 0.01) -> Tensor:
    """Which latent units vary with the data: `(D,)`, booleans (equation `eq-active-units`).

    A unit is active if the variance over x of its posterior mean exceeds `threshold`. Burda et
    al. (2016).

    Raises:
        InputError: a variance needs at least two examples.
    """
    if len(x) < 2:
        raise InputError(f"active units need at least 2 examples, got {len(x)}")
    q_z: Distribution = vae.posterior(x)
    return q_z.mean.var(dim=0) > threshold


def aggregated_posterior(vae: VAE, x: Tensor) -> Distribution:
    """q(z) = (1/N) Σₙ q(z | xₙ), a mixture of N components (equation `eq-aggregated`).

    One density costs O(N D) and memory to match: N is thousands at most.
    """
    return MixtureSameFamily(
        Categorical(logits=x.new_zeros(len(x)), validate_args=False),
        vae.posterior(x),
        validate_args=False,
    )


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
    """
    from sklearn.mixture import GaussianMixture as FittedMixture

    z_train = torch.cat([vae.posterior(train).sample() for _ in range(10)])
    z_test = vae.posterior(test).sample()
    fitted = FittedMixture(components, random_state=0, reg_covar=1e-4).fit(z_train.cpu().double())
    better = torch.from_numpy(fitted.score_samples(z_test.cpu().double())).to(z_test)
    p_z: Distribution = vae.prior()
    return better - p_z.log_prob(z_test)
