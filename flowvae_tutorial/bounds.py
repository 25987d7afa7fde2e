"""A tighter bound with a quieter gradient, and an encoder's Gaussian that is mended by hand."""

import math

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from .contract import family
from .distributions import rsample_and_log_prob
from .errors import InputError
from .vae import VAE


def iwae_bound(vae: VAE, x: Tensor, num_samples: int) -> Tensor:
    """The importance-weighted bound of K = `num_samples` samples (`eq-iwae`, Burda et al. 2016).

    One estimate for each x `(N, X)`, `(N,)`, in nats, with its whole gradient. K = 1 is the ELBO;
    with K its mean rises to log p(x). `vae.log_marginal` is the same in parts, without gradients.

    Raises:
        InputError: as for `elbo`.
    """
    log_weight = vae.elbo(x, num_samples).value
    return log_weight.logsumexp(dim=0) - math.log(len(log_weight))


def dreg_loss(vae: VAE, x: Tensor, num_samples: int) -> Tensor:
    """Minus the same bound, averaged over x `(N, X)`, with a quieter gradient: a scalar.

    The doubly reparametrised gradient (`eq-dreg`, Tucker et al. 2019): through a sample, its share
    of the weights is squared, and the posterior's score is gone. What prior and likelihood do to a
    latent that is held has the plain share, also where a prior is made of the posterior.

    Raises:
        InputError: as for `elbo`.

    Example:
        >>> import torch
        >>> from flowvae_tutorial import build
        >>> from flowvae_tutorial.bounds import dreg_loss
        >>> from flowvae_tutorial.data import load
        >>> rings = load("rings")
        >>> vae = build("gaussian", rings)
        >>> dreg_loss(vae, rings.train[:64], num_samples=8).backward()
    """
    num_samples = vae._check(x, num_samples)
    q = vae.posterior(x)
    z, _ = rsample_and_log_prob(q, (num_samples,))
    with torch.enable_grad():
        held = z.detach().requires_grad_()
        log_p = vae.likelihood(held).log_prob(x) + vae.prior().log_prob(held)
        log_weight = log_p - q.log_prob(held)
        (slope,) = torch.autograd.grad(log_weight.sum(), held, retain_graph=True)
    share = log_weight.detach().softmax(dim=0)
    gradient = (share * log_p + share.square() * (slope * z).sum(-1)).sum(dim=0)
    bound = log_weight.detach().logsumexp(dim=0) - math.log(num_samples)
    loss: Tensor = -(bound + gradient - gradient.detach()).mean()
    return loss


def semi_amortised(vae: VAE, x: Tensor, steps: int, lr: float = 0.3) -> Distribution:
    """For each x `(N, X)` a diagonal Gaussian, some steps of ELBO ascent from the posterior's.

    The steps move mean and log-scale, in units of the scale at the start, uphill in an ELBO of 32
    samples whose noise stays the same. One that would lower an example's is not taken, and its
    next is a quarter as long; else its next is twice as long. Kim et al. (2018).

    Raises:
        InputError: as for `elbo`, or the posterior is no diagonal Gaussian.
    """
    vae._check(x)
    with torch.no_grad():
        q, prior = vae.posterior(x), vae.prior()
    if family(q) != "Normal":
        raise InputError(
            f"semi-amortised inference moves a diagonal Gaussian, and this posterior is a "
            f"{family(q)}: give it a VAE with a GaussianPosterior"
        )
    noise = q.mean.new_empty(16, *q.mean.shape).normal_()
    # In pairs and scaled: mean and variance are then exact, and no Gaussian is fitted to chance.
    noise = torch.cat([noise, -noise]) / noise.square().mean(dim=0).sqrt()

    def moved(by: Tensor) -> Normal:
        shift, log_stretch = by.chunk(2, dim=-1)
        loc, scale = q.mean + q.stddev * shift, q.stddev * log_stretch.exp()
        return Normal(loc, scale, validate_args=False)

    def elbo(by: Tensor) -> Tensor:
        gaussian = moved(by)
        z = gaussian.loc + gaussian.scale * noise
        log_p: Tensor = vae.likelihood(z).log_prob(x) + prior.log_prob(z)
        return log_p.mean(dim=0) + gaussian.scale.log().sum(-1)

    by = q.mean.new_zeros(len(x), 2 * q.mean.shape[-1])
    rate = torch.full_like(by[:, :1], lr)
    for _ in range(steps):
        with torch.enable_grad():
            here = elbo(by.requires_grad_())
            (slope,) = torch.autograd.grad(here.sum(), by)
        with torch.no_grad():
            trial = by + rate * slope
            uphill = (elbo(trial) >= here)[:, None]
            by = torch.where(uphill, trial, by)
            rate = torch.where(uphill, 2 * rate, rate / 4)
    return Independent(moved(by.detach()), 1, validate_args=False)
