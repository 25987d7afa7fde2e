"""Checks of the exercises of chapter 1, the Gaussian VAE."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from . import Hint, ask, ask_twice, close, exercise, numbers, refuse
from .hints import STEEP


@exercise("1.1")
def check_gaussian_kl(answer: Callable[[Tensor, Tensor], Tensor], seed: int) -> None:
    """Check the KL divergence from a diagonal Gaussian to N(0, I).

    Args:
        answer: takes means and log-scales, `(N, D)` each; returns `(N,)`.
        seed: which numbers it is tried on.
    """
    mean = numbers(5, 3, seed=10 * seed + 1)
    log_scale = 0.5 * numbers(5, 3, seed=10 * seed + 2)
    variance = (2 * log_scale).exp()
    target = 0.5 * (mean**2 + variance - 1 - 2 * log_scale).sum(-1)
    value = ask_twice(
        answer, mean, log_scale, shape=(5,), hint="(1.9) has the whole average in closed form."
    ).double()
    if value.isnan().any():
        raise Hint("Your result is NaN. log_scale is a logarithm already, and may be negative.")
    refuse(
        value,
        target,
        [
            (-target, "The sign is turned: a KL divergence is never negative, and yours is."),
            (
                0.5 * (mean**2 + log_scale.exp() - 1 - log_scale).sum(-1),
                "You read log_scale as the logarithm of the variance. It is that of the standard "
                "deviation.",
            ),
            (
                0.5 * (mean**2 + log_scale.exp() - 1 - 2 * log_scale).sum(-1),
                "One of your terms has σ where σ² belongs.",
            ),
            (
                0.5 * (mean**2 + 2 * log_scale.exp() - 1 - 2 * log_scale).sum(-1),
                "You doubled σ where it is to be squared.",
            ),
            (
                0.5 * (mean + variance - 1 - 2 * log_scale).sum(-1),
                "The mean goes in squared: a shift to the left costs as much as one to the right.",
            ),
            (
                0.5 * (variance - 1 - 2 * log_scale).sum(-1),
                "The mean is missing: a q far from the origin is dear, however wide it is.",
            ),
            (
                0.5 * (mean**2 + variance - 1).sum(-1),
                "The term with log σ is missing. Without it a single point would be the cheapest "
                "q.",
            ),
            (
                target + 1,
                "The −1 is there once for the whole latent. Each dimension brings its own.",
            ),
            (
                0.5 * (mean**2 + variance - 1 - log_scale).sum(-1),
                "Check the last term of (1.9): it has log σ² in it, which is 2 log σ.",
            ),
            (
                0.5 * (mean**2 + variance - 1 + 2 * log_scale).sum(-1),
                "Check the sign of the term with log σ: a narrow q is dear.",
            ),
            (
                0.5 * (mean**2 + variance**2 - 1 - 4 * log_scale).sum(-1),
                "You took σ² for the standard deviation.",
            ),
            (target / 3, "You took a mean over the dimensions. Independent dimensions add up."),
            (2 * target, "It is twice as large as it should be: where has the ½ gone?"),
            (
                target + 1.5,
                "At mean 0 and log-scale 0 the two distributions are equal, and your divergence "
                "is not 0 there.",
            ),
            (
                (log_scale + 0.5 * (1 + mean**2) / variance - 0.5).sum(-1),
                "This is the divergence from N(0, I) to q. The other way round, please.",
            ),
            (
                target - (mean**2).sum(-1),
                "The square of the mean has the wrong sign: a q far from the origin is dear.",
            ),
            (
                target - 0.5 * variance.sum(-1),
                "σ² is missing: without it the widest q would be the cheapest.",
            ),
            (target + 3, "The 1 is subtracted, and you added it."),
            (
                0.5 * (mean**2 + log_scale**2 - 1 - 2 * log_scale).sum(-1),
                "You squared log σ. It is σ that is squared.",
            ),
            (
                target - log_scale.sum(-1),
                "The ½ stands before the logarithm, too: before log σ², and yours is before the "
                "rest alone.",
            ),
            (
                target + 0.5 * (variance - 1 - 2 * log_scale).sum(-1),
                "The ½ stands before the square of the mean alone. It is there for the whole sum.",
            ),
            (
                target + 0.5 * mean.sum(-1) ** 2 - 0.5 * (mean**2).sum(-1),
                "You summed the means and squared then. Each is squared first.",
            ),
            (
                (0.5 * mean**2 - log_scale).sum(-1),
                "That is the log-ratio at the mean of q. The divergence averages it over q.",
            ),
        ],
    )


@exercise("1.3")
def check_loss(answer: Callable[[Tensor, Tensor, Tensor], Tensor], seed: int) -> None:
    """Check a loss made of three log-densities.

    Args:
        answer: takes log p(x | z), log q(z | x) and log p(z), `(S, N)` each; returns `()`.
        seed: which numbers it is tried on.
    """
    log_likelihood, log_q, log_prior = (
        numbers(4, 3, seed=10 * seed + k) - shift
        # So that some log-likelihoods are positive and some of the sampled KL terms negative.
        for k, shift in ((1, 0), (2, 4), (3, 4.5))
    )
    ratio = log_q - log_prior
    elbo = log_likelihood - ratio
    asked = [each.clone().requires_grad_() for each in (log_likelihood, log_q, log_prior)]
    value = ask(answer, *asked, shape=()).double()
    refuse(
        value.detach(),
        -elbo.mean(),
        [
            (
                elbo.mean(),
                "This is the ELBO itself. An optimiser goes downhill: which sign does a loss have?",
            ),
            (
                (log_likelihood + ratio).mean(),
                "The reconstruction has the wrong sign: log p(x | z) is to rise, a loss to fall.",
            ),
            (
                -(log_likelihood + log_q + log_prior).mean(),
                "log q and log p(z) enter with opposite signs: the KL term is their difference.",
            ),
            (
                -(log_likelihood + log_q - log_prior).mean(),
                "The sign of the KL term is turned: your loss rewards a posterior far from the "
                "prior.",
            ),
            (
                -(log_likelihood - log_q - log_prior).mean(),
                "log p(z) has the wrong sign: your loss drives the latents to where the prior is "
                "low.",
            ),
            (
                -(log_likelihood - ratio.clamp(min=0)).mean(),
                "You cut off negative values of the KL term. Only its average is never negative.",
            ),
            (
                -(log_likelihood - ratio.abs()).mean(),
                "You took the KL term without its sign. At a single sample it may be negative.",
            ),
            (
                -elbo.sum(),
                "You summed over samples and pictures. Then a step grows with the batch and with "
                "the number of samples.",
            ),
            (
                -elbo.mean(0).sum(),
                "You summed over the pictures. Then a step grows with the size of the batch.",
            ),
            (
                -elbo.sum(0).mean(),
                "You summed over the samples. More of them should estimate the same number "
                "better, not give a larger one.",
            ),
            (-log_likelihood.mean(), "The KL term is missing."),
            (ratio.mean(), "This is the KL term alone. How well is x described?"),
            (
                (log_likelihood.abs() + ratio).mean(),
                "You took log p(x | z) without its sign. The log of a density may be positive.",
            ),
            (
                -(log_likelihood - ratio / 2).mean(),
                "The KL term has a ½ before it. It enters whole.",
            ),
            (-(log_likelihood - 2 * ratio).mean(), "The KL term is counted twice."),
            (
                -(log_likelihood - log_q.exp() * ratio).mean(),
                "You weighted the log-ratio by q. The samples were drawn from q, so each counts "
                "alike.",
            ),
            (-elbo.mean() / 2, "The loss is half as large as it should be."),
            (-(log_likelihood - log_q).mean(), "The prior is missing from the KL term."),
            (-(log_likelihood + log_prior).mean(), "The posterior is missing from the KL term."),
            (
                math.log(4) - elbo.logsumexp(0).mean(),
                "You took the logarithm of a mean over samples: that is (1.12). The ELBO is a mean "
                "of logarithms.",
            ),
        ],
    )
    if not value.requires_grad:
        raise Hint(
            "The number is right, but it has lost its gradient, and an optimiser needs that. "
            "Return the tensor as it is."
        )
    slopes = torch.autograd.grad(value, asked, allow_unused=True)
    for slope, wanted in zip(slopes, (-1 / 12, 1 / 12, -1 / 12), strict=True):
        if slope is None or not close(slope, torch.full_like(slope, wanted)):
            raise Hint(
                "The number is right, but the gradient of one of the three is not. All three go in "
                "as they are. (The path gradient detaches the parameters of q "
                "inside log q, and not log q.)"
            )


@exercise("1.4")
def check_log_marginal(answer: Callable[[Tensor], Tensor], seed: int) -> None:
    """Check the importance-weighted estimate of log p(x).

    Args:
        answer: takes log-weights `(S, N)`; returns `(N,)`.
        seed: which numbers it is tried on.
    """
    log_weights = 2 * numbers(5, 3, seed=10 * seed + 4)
    target = log_weights.logsumexp(0) - math.log(5)
    refuse(
        ask(answer, log_weights, shape=(3,)).double(),
        target,
        [
            (
                log_weights.mean(0),
                "You took the mean of the logarithms. That is the ELBO; here the mean comes before "
                "the logarithm.",
            ),
            (log_weights.logsumexp(0), "You summed the weights. A mean also divides by S."),
            (log_weights.exp().mean(0), "This is the mean weight. Its logarithm is asked for."),
            (
                log_weights.logsumexp(0) / 5,
                "You divided the logarithm by S. The mean weight is divided by S inside it.",
            ),
            (
                log_weights.logsumexp(0) - math.log(3),
                "Divide by the number of samples S, not by N.",
            ),
            (
                log_weights.logsumexp(0) - math.log(15),
                "You divided by all S·N weights. Each picture has S of its own.",
            ),
            (-target, "The sign is turned: a log-likelihood is asked for, not an NLL."),
            (
                target + 2 * math.log(5),
                "Dividing by S makes the result smaller: look at the sign of log S.",
            ),
            (
                log_weights.logsumexp(0) - 5,
                "You subtracted S. What stands there is its logarithm.",
            ),
            (log_weights.amax(0), "This is the largest weight alone. The others add to it."),
            (
                target - log_weights.amax(0),
                "The maximum was subtracted and not added again at the end.",
            ),
            (
                log_weights.amax(0) + (target - log_weights.amax(0)).exp(),
                "The last logarithm is missing: a mean of exponentials is added to a logarithm.",
            ),
        ],
    )
    if not close(ask(answer, log_weights - 1000, shape=(3,)).double(), target - 1000):
        raise Hint(
            "Right for moderate numbers, but log-weights near −1000 come out wrong: their "
            "exponentials are too small for a computer. Chapter 0 shows the way around, picture "
            "by picture."
        )
    shift = torch.tensor([-1000.0, 0.0, -1000.0], dtype=torch.float64)
    if not close(ask(answer, log_weights + shift, shape=(3,)).double(), target + shift):
        raise Hint(
            "Right while all pictures are about as probable. Where one is far more probable than "
            "the others it fails: one maximum for the whole tensor does not serve them all."
        )
    steep = log_weights + torch.tensor([[0.0], [300.0], [1500.0], [600.0], [0.0]])
    if not close(ask(answer, steep, shape=(3,)).double(), steep.logsumexp(0) - math.log(5)):
        raise Hint(STEEP)
