"""Checks of the exercises of chapter 1, the Gaussian VAE."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from . import Hint, ask, close, exercise


def _numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _recognise(value: Tensor, mistakes: dict[str, Tensor]) -> None:
    for hint, mistaken in mistakes.items():
        if value.shape == mistaken.shape and close(value, mistaken):
            raise Hint(hint)


@exercise("1.1")
def check_gaussian_kl(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Check `answer(mean, log_scale)`: the KL divergence to N(0, I), `(N, D)` twice to `(N,)`."""
    mean, log_scale = _numbers(5, 3, seed=1), 0.5 * _numbers(5, 3, seed=2)
    value = ask(answer, mean, log_scale, shape=(5,)).double()
    variance = (2 * log_scale).exp()
    target = 0.5 * (mean**2 + variance - 1 - 2 * log_scale).sum(-1)
    if close(value, target):
        return
    _recognise(
        value,
        {
            "The sign is wrong: a KL divergence is never negative, and yours is.": -target,
            "You have used log_scale as the logarithm of the variance. It is that of the "
            "standard deviation.": 0.5 * (mean**2 + log_scale.exp() - 1 - log_scale).sum(-1),
            "One of your terms has σ where σ² belongs.": 0.5
            * (mean**2 + log_scale.exp() - 1 - 2 * log_scale).sum(-1),
            "You have averaged over the dimensions. Independent dimensions add up.": target / 3,
            "It is twice as large as it should be: where has the ½ gone?": 2 * target,
            "At mean 0 and log_scale 0 the two distributions are equal, and your result is not "
            "0.": target + 1.5,
            "This is the divergence from N(0, I) to q. The other way round, please.": (
                log_scale + 0.5 * (1 + mean**2) / variance - 0.5
            ).sum(-1),
        },
    )
    raise Hint("Compare with equation (1.9), term by term, for one picture and one dimension.")


@exercise("1.3")
def check_loss(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """Check `answer(log_likelihood, log_q, log_prior)`: minus the ELBO, `(S, N)` thrice to `()`."""
    log_likelihood, log_q, log_prior = (_numbers(4, 3, seed=seed) - 2 * seed for seed in (1, 2, 3))
    value = ask(answer, log_likelihood, log_q, log_prior, shape=()).double()
    elbo = log_likelihood - (log_q - log_prior)
    if close(value, -elbo.mean()):
        return
    _recognise(
        value,
        {
            "This is the ELBO itself. An optimiser goes downhill, so which sign does a loss "
            "have?": elbo.mean(),
            "The sign of the KL term is wrong: your loss rewards a posterior far from the "
            "prior.": -(log_likelihood + log_q - log_prior).mean(),
            "You have summed over samples and pictures. Then the size of a step depends on the "
            "size of the batch.": -elbo.sum(),
            "You have summed over the pictures. Then the size of a step depends on the size of "
            "the batch.": -elbo.mean(0).sum(),
            "You have summed over the samples. More samples should give a better estimate of the "
            "same number, not a larger number.": -elbo.sum(0).mean(),
            "The KL term is missing.": -log_likelihood.mean(),
            "The prior is missing from the KL term.": -(log_likelihood - log_q).mean(),
        },
    )
    raise Hint("Start from equation (1.7): which of the three log-densities adds, which subtracts?")


@exercise("1.4")
def check_log_marginal(answer: Callable[[Tensor], Tensor]) -> None:
    """Check `answer(log_weights)`: the importance-weighted estimate, `(S, N)` to `(N,)`."""
    log_weights = 2 * _numbers(5, 3, seed=4)
    value = ask(answer, log_weights, shape=(3,)).double()
    target = log_weights.logsumexp(0) - math.log(5)
    if not close(value, target):
        _recognise(
            value,
            {
                "You have averaged the logarithms. That is the ELBO; here the average comes "
                "before the logarithm.": log_weights.mean(0),
                "You have summed the weights. An average also divides by S.": log_weights.logsumexp(
                    0
                ),
                "This is the average weight. Its logarithm is asked for.": log_weights.exp().mean(
                    0
                ),
                "The sign is wrong: a log-likelihood is asked for, not an NLL.": -target,
            },
        )
        raise Hint("Compare with equation (1.11) for one picture and S = 2.")
    if not close(ask(answer, log_weights - 1000, shape=(3,)).double(), target - 1000):
        raise Hint(
            "Right for moderate numbers, but log-weights near −1000 come out wrong: their "
            "exponentials are too small for a computer. Chapter 0 shows the way around."
        )
