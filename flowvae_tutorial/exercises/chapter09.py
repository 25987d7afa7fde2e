"""Checks of the exercises of chapter 9, results."""

from collections.abc import Callable

import torch
from torch import Tensor

from . import Hint, ask, close, exercise, refuse
from .hints import STEEP


@exercise("9.1")
def check_difference(answer: Callable[[Tensor, Tensor], Tensor], seed: int) -> None:
    """Check the paired difference of two models and its standard error.

    Args:
        answer: takes two NLLs `(N,)` of the same examples; returns the mean difference, first
            minus second, and its standard error, `(2,)`.
        seed: which numbers it is tried on.
    """
    random = torch.Generator().manual_seed(seed)
    hard, noise = torch.randn(2, 40, dtype=torch.float64, generator=random)
    first, second = 82 + 5 * hard, 81 + 4.5 * hard + 0.5 * noise
    d = first - second
    mean, error = d.mean(), d.std() / len(d) ** 0.5
    apart = ((first.var() + second.var()) / len(d)).sqrt()
    value = ask(answer, first, second, shape=(2,)).double()
    if value[1].isnan():
        raise Hint(
            "The standard error is NaN: one number alone has no spread. Take it before the mean."
        )
    refuse(
        value,
        torch.stack([mean, error]),
        [
            (torch.stack([-mean, error]), "First minus second is asked for: the sign is turned."),
            (
                torch.stack([mean, apart]),
                "You combined two standard errors as if the pictures were different ones. What "
                "varies is the difference.",
            ),
            (
                torch.stack([mean, first.std() / len(d) ** 0.5 + second.std() / len(d) ** 0.5]),
                "You added the two standard errors. Subtract first, then take one.",
            ),
            (
                torch.stack([mean, d.std()]),
                "That is the spread of one picture's difference. How sure is the mean of N?",
            ),
            (torch.stack([mean, d.std() / len(d)]), "Divide by the root of N, not by N."),
            (
                torch.stack([mean, d.var() / len(d)]),
                "That is the variance of the mean. Take its root.",
            ),
            (
                torch.stack([mean, d.std(correction=0) / len(d) ** 0.5]),
                "Almost: the spread of a sample divides the squares by N − 1, for its mean was "
                "fitted to it.",
            ),
            (
                torch.stack([mean, d.std() / (len(d) - 1) ** 0.5]),
                "Divide by the root of N. The 1 is subtracted once, inside of the spread.",
            ),
            (
                torch.stack([mean, d.var() / len(d) ** 0.5]),
                "You divided the variance. The root of N goes with the standard deviation.",
            ),
            (
                torch.stack([mean, (first.std() - second.std()) / len(d) ** 0.5]),
                "You subtracted the two spreads. Subtract the NLLs, and take the spread of that.",
            ),
            (
                torch.stack([mean, first.std() / len(d) ** 0.5]),
                "That is the standard error of the first model's mean. The difference has its own.",
            ),
            (
                torch.stack([mean, torch.cat([first, second]).std() / (2 * len(d)) ** 0.5]),
                "You put both models' NLLs into one sample. The difference is what varies.",
            ),
            (torch.stack([mean, 1.96 * error]), "That is half of a 95 % interval."),
            (torch.stack([mean, 2 * error]), "That is half of a 95 % interval."),
            (
                torch.stack([mean - 1.96 * error, mean + 1.96 * error]),
                "Those are the ends of a 95 % interval. The mean and its standard error, please.",
            ),
            (
                torch.stack([mean, second.std() / len(d) ** 0.5]),
                "That is the standard error of the second model's mean. The difference has its "
                "own.",
            ),
            (
                torch.stack([mean, d.square().mean().sqrt() / len(d) ** 0.5]),
                "Your spread is taken from zero. It is taken from the mean of the differences.",
            ),
            (torch.stack([mean, d.var()]), "That is the variance of one picture's difference."),
            (
                torch.stack([mean, apart**2]),
                "You added the variances of two means. Subtract the NLLs first, and take a root at "
                "the end.",
            ),
            (torch.stack([d.sum(), error]), "You summed the differences. Their mean is asked for."),
            (
                torch.stack([d.abs().mean(), error]),
                "You took the differences without their signs. Some cancel.",
            ),
            (
                torch.stack([d.abs().mean(), d.abs().std() / len(d) ** 0.5]),
                "You took the differences without their signs. Some cancel.",
            ),
            (torch.stack([error, mean]), "The mean comes first, then its standard error."),
        ],
    )


@exercise("9.2")
def check_effective_samples(answer: Callable[[Tensor], Tensor], seed: int) -> None:
    """Check the effective sample size, equation `eq-effective-samples`.

    Args:
        answer: takes log-weights `(S, N)`, far below zero; returns `(N,)`.
        seed: which numbers it is tried on.
    """
    random = torch.Generator().manual_seed(seed)
    small = 2 * torch.randn(8, 5, dtype=torch.float64, generator=random)
    log_weights = small - 2000
    right = small.exp().sum(0).square() / small.exp().square().sum(0)
    shifted = (small - small.amax(0)).exp()
    value = ask(answer, log_weights, shape=(5,)).double()
    if value.isnan().any():
        raise Hint("0 divided by 0: exp(−2000) is zero in floating point. Which factor cancels?")
    if value.isinf().any():
        raise Hint(
            "Your result is infinite: the powers above and below the line differ, so the common "
            "factor does not cancel. How does a square show in a logarithm?"
        )
    refuse(
        value,
        right,
        [
            (1 / right, "You turned the fraction round."),
            (right / len(small), "You divided by S. The number of samples is asked for."),
            (
                len(small) * right,
                "S times too large: below the line stands a sum, and yours is a mean.",
            ),
            (
                -(log_weights.softmax(0) * log_weights.log_softmax(0)).sum(0),
                "That is the entropy of the shares. The equation has squares.",
            ),
            (
                log_weights.sum(0).square() / log_weights.square().sum(0),
                "You took the log-weights for weights.",
            ),
            (
                shifted.sum(0),
                "That is the sum over the largest weight. Square, as in the formula.",
            ),
            (
                small.exp().sum(0).square() / small.exp().sum(0).square(),
                "Square each weight before you sum, below the line.",
            ),
            (
                shifted.sum(0) / shifted.square().sum(0),
                "The sum above the line is squared, too.",
            ),
            (right.log(), "That is its logarithm."),
            (
                1 / log_weights.softmax(1).square().sum(0),
                "Your shares sum to 1 over the pictures. They should do so over the samples.",
            ),
            (
                (small - small.amax(1, keepdim=True)).exp().sum(0).square()
                / (small - small.amax(1, keepdim=True)).exp().square().sum(0),
                "You subtracted the largest of a sample over the pictures. The factor that cancels "
                "is common to all samples of one picture.",
            ),
            (
                2 * log_weights.logsumexp(0) / (2 * log_weights).logsumexp(0),
                "You divided the logarithms. What do they make of a quotient?",
            ),
            (
                torch.zeros_like(right),
                "Zero: below the line a logarithm of a weight was squared. What is the logarithm "
                "of a squared weight?",
            ),
            (
                (-(log_weights.softmax(0) * log_weights.log_softmax(0)).sum(0)).exp(),
                "That counts samples by the entropy of their shares. The equation has squares.",
            ),
        ],
    )
    apart = log_weights + torch.tensor([1900.0, 0.0, 1000.0, -1000.0, 0.0])
    if not close(ask(answer, apart, shape=(5,)).double(), right):
        raise Hint(
            "Each picture alone is right. With pictures of very different size it fails: each has "
            "a largest weight of its own."
        )
    steep = log_weights + torch.tensor([0.0, 300, 1500, 600, 0, 0, 0, 0])[:, None]
    if not close(ask(answer, steep, shape=(5,)).double(), torch.ones(5)):
        raise Hint(STEEP)
