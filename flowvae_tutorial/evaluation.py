"""What is reported of a trained model: NLL with its standard error, the ELBO's parts, the rest."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from .distributions import Chain, Mixture, rsample_and_log_prob
from .errors import InputError
from .networks import evaluating
from .vae import VAE

# Rows evaluated at once, for the ELBO of a whole test set.
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
        InputError: x has the wrong shape, dtype or values.

    Example:
        >>> from flowvae_tutorial import build, evaluate, mean_and_standard_error
        >>> from flowvae_tutorial.data import load
        >>> data = load("rings")
        >>> result = evaluate(build("gaussian", data), data.test[:100], num_samples=10)
        >>> nll, standard_error = mean_and_standard_error(result.nll)  # nats per example
        >>> result.nll.shape, len(result.kl), result.active.shape
        (torch.Size([100]), 1, torch.Size([2]))
    """
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
    vae._check(x, num_samples)
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

    Args:
        vae: the model.
        x: `(N, X)`, all examples over which q(z) is aggregated.
        num_samples: S, posterior samples per example.

    Raises:
        InputError: x has the wrong shape, dtype or values.
    """
    vae._check(x, num_samples)
    z, log_q = rsample_and_log_prob(vae.posterior(x), (num_samples,))
    log_aggregated = aggregated_posterior(vae, x).log_prob(z)
    return Surgery(
        reconstruction=vae.likelihood(z).log_prob(x).mean().item(),
        mutual_information=(log_q - log_aggregated).mean().item(),
        marginal_kl=(log_aggregated - vae.prior().log_prob(z)).mean().item(),
    )


@torch.no_grad()
def active_units(vae: VAE, x: Tensor, threshold: float = 0.01) -> Tensor:
    """Which latent units vary with the data: `(D,)`, booleans (equation `eq-active-units`).

    A unit is active if the variance over x of its posterior mean exceeds `threshold`. Burda et
    al. (2016). The mean of a flow has no closed form: it is the average of `MEAN_SAMPLES` samples,
    and the variance that the average has of its own is subtracted.

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
    return Mixture(vae.posterior(x), x.new_zeros(len(x)))


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


def energy_distance(x: Tensor, y: Tensor) -> float:
    """How far apart two sets of points are, by their energy distance (`eq-energy-distance`).

    Zero only for equal distributions. Székely and Rizzo (2013). The expectations run over
    different points, so the estimate has no bias and may fall below zero. O((N + M)²) memory.

    Args:
        x: `(N, X)`, N at least 2.
        y: `(M, X)`, M at least 2.

    Raises:
        InputError: one of the sets has fewer than two points.
    """
    if min(len(x), len(y)) < 2:
        raise InputError(
            f"an energy distance needs at least 2 points a set, got {len(x)}, {len(y)}"
        )
    # In float64, which not every GPU has: three large numbers leave a small one.
    x, y = (points.cpu().double() for points in (x, y))
    within = sum(torch.pdist(points).mean() for points in (x, y))
    return float(2 * torch.cdist(x, y).mean() - within)


def precision_and_recall(samples: Tensor, points: Tensor, k: int = 5) -> tuple[float, float]:
    """How many samples lie among the points, and how many points among the samples.

    A set covers the balls around its members, each as wide as the distance to the k-th nearest
    other member. Precision is the share of samples that the points cover, recall the share of
    points that the samples cover. Kynkäänniemi et al. (2019). Both fall with more dimensions and
    change with the number of members: compare sets of the same size. O((N + M)²) memory.

    Args:
        samples: `(N, X)`, more than k.
        points: `(M, X)`, more than k, in the same space: pixels, or better a network's features.
        k: which neighbour bounds a ball.

    Raises:
        InputError: k is below 1, or one of the sets has no more than k members.
    """
    if k < 1 or min(len(samples), len(points)) <= k:
        raise InputError(
            f"precision and recall need k of at least 1 and more than k={k} points a set, got "
            f"{len(samples)}, {len(points)}"
        )
    samples, points = (members.cpu().double() for members in (samples, points))
    between = _distances(samples, points)
    # The nearest of all is the member itself.
    around_samples, around_points = (
        _distances(members, members).kthvalue(k + 1, dim=1).values for members in (samples, points)
    )
    precision = (between <= around_points).any(dim=1).double().mean()
    recall = (between.T <= around_samples).any(dim=1).double().mean()
    return precision.item(), recall.item()


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Exact, so that a point is at distance 0 of itself: a matrix product would lose digits."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def modes_found(samples: Tensor, points: Tensor, labels: Tensor) -> int:
    """How many clusters of labelled points of the plane the samples reach.

    A cluster is found if at least a quarter of its fair share of the samples lies within three
    standard deviations of its centre.

    Args:
        samples: `(M, 2)`.
        points: `(N, 2)`, examples of the clusters.
        labels: `(N,)`, the cluster of each.

    Raises:
        InputError: not points of the plane.
    """
    if samples.shape[-1] != 2 or points.shape[-1] != 2:
        raise InputError(
            f"modes_found is for points of the plane, got {samples.shape[-1]} and "
            f"{points.shape[-1]} numbers each: with many, the examples themselves lie more than "
            "three standard deviations from their centre"
        )
    clusters = [points[labels == label] for label in labels.unique()]
    centres = torch.stack([cluster.mean(dim=0) for cluster in clusters])
    scales = torch.stack([cluster.std(dim=0).mean() for cluster in clusters])
    near = torch.cdist(samples, centres) < 3 * scales
    shares = samples.new_tensor([len(cluster) / len(points) for cluster in clusters])
    return int((near.to(samples).mean(dim=0) >= shares / 4).sum())
