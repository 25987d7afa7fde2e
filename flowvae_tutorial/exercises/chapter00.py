"""Checks of chapter 0, reading distributions."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from . import Hint, ask, close, exercise, refuse
from .hints import STEEP

Answer = Callable[..., Tensor]
UNDERFLOW = (
    "The product of the densities underflows to zero: take their logarithms first, and add them."
)


def _gaussian(z: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    """Log-density of each number by itself, in the shape of z."""
    standardised = (z - loc) * (-log_scale).exp()
    return -0.5 * standardised**2 - log_scale - 0.5 * math.log(2 * math.pi)


def _mixture(z: Tensor, log_weights: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    whole = _gaussian(z[:, None], loc, log_scale).sum(-1)
    return (log_weights + whole).logsumexp(-1)


@exercise("0.1")
def check_gaussian_log_density(answer: Answer, seed: int) -> None:
    """Check a diagonal Gaussian's log-density.

    Args:
        answer: takes z `(S, N, D)`, loc `(N, D)` and log-scale `(N, D)`; returns `(S, N)`.
        seed: which numbers it is tried on.
    """
    random = torch.Generator().manual_seed(seed)
    z, loc, log_scale = (
        torch.randn(shape, generator=random) for shape in [(5, 4, 3), (4, 3), (4, 3)]
    )
    each = _gaussian(z, loc, log_scale)
    constant = 0.5 * 3 * math.log(2 * math.pi)
    width = log_scale.sum(-1)
    squares = each.sum(-1) + width + constant
    value = ask(answer, z, loc, log_scale, shape=(5, 4))
    if value.isnan().any():
        raise Hint(
            "Your log-density is NaN. A log-scale can be negative, a standard deviation cannot: "
            "was one taken for the other?"
        )
    if value.isneginf().any():
        raise Hint(UNDERFLOW)
    refuse(
        value,
        each.sum(-1),
        [
            (-each.sum(-1), "The sign is turned: a point near the mean has the higher density."),
            (
                each.mean(-1),
                "This is a mean over the event. A log-density is summed over it: the densities of "
                "independent numbers multiply.",
            ),
            (
                _gaussian(z, loc, log_scale / 2).sum(-1),
                "You read log σ as a log-variance: the spread used is √σ. The book's log-scale is "
                "the logarithm of the standard deviation.",
            ),
            (
                _gaussian(z, loc, 2 * log_scale).sum(-1),
                "The variance stands where the standard deviation belongs: the spread used is σ².",
            ),
            (
                (-0.5 * ((z - loc) / log_scale) ** 2 - log_scale).sum(-1) - constant,
                "You divided by log σ: the distance from the mean is measured in units of σ.",
            ),
            (
                (-0.5 * (z - loc) ** 2 / log_scale.exp()).sum(-1) - width - constant,
                "The squared distance is divided by σ where σ² belongs.",
            ),
            (2 * squares - width - constant, "The square lacks its factor ½."),
            (
                -squares - width - constant,
                "The square has the wrong sign: your density rises with the distance from the "
                "mean.",
            ),
            (
                squares - constant,
                "The term with log σ is missing. A wide Gaussian spreads the same mass thinner.",
            ),
            (
                squares - width / 2 - constant,
                "You have ½ log σ: the ½ belongs to log σ², which is twice log σ.",
            ),
            (
                squares - 2 * width - constant,
                "The term with log σ is there twice. The normaliser has σ, and yours has σ².",
            ),
            (
                squares + width - constant,
                "The term with log σ has the wrong sign: a wide Gaussian must be lower at its "
                "mean than a narrow one.",
            ),
            (
                each.sum(-1) + constant,
                "The constant with 2π is missing: your density does not integrate to one.",
            ),
            (
                each.sum(-1) + 2 * constant,
                "The constant with 2π has the wrong sign.",
            ),
            (
                squares - width - 2 * constant,
                "The constant with 2π lacks its ½: it comes from a square root.",
            ),
            (
                squares - width - 1.5 * math.log(2) * math.pi,
                "You took the logarithm of 2 and multiplied by π. The logarithm is of 2π.",
            ),
            (
                squares - log_scale.exp().sum(-1) - constant,
                "You subtracted σ. What stands there is its logarithm.",
            ),
            (
                (-0.5 * ((z - loc) * log_scale.exp()) ** 2).sum(-1) - width - constant,
                "You multiplied the distance by σ. It is measured in units of σ.",
            ),
            (
                each.logsumexp(-1),
                "You added the densities of the coordinates. Those of independent numbers "
                "multiply.",
            ),
            (
                squares - width - constant / 3,
                "The constant is there once for the whole event. Each of the D numbers brings its "
                "own.",
            ),
            (each.sum(-1).exp(), "This is the density; its logarithm is asked for."),
            (
                (-0.5 * (z - loc) / log_scale.exp()).sum(-1) - width - constant,
                "The distance from the mean is not squared.",
            ),
            (
                _gaussian(z, torch.zeros_like(loc), log_scale).sum(-1),
                "The mean is missing: your Gaussian lies around 0.",
            ),
            (
                _gaussian(z, loc, torch.zeros_like(loc)).sum(-1),
                "The width is missing: your Gaussian has σ = 1 everywhere.",
            ),
            (each.prod(-1), "You multiplied logarithms. It is the densities that multiply."),
            (
                squares + width / 2 + constant,
                "One bracket too many: −½ stands before the square alone, and log σ and the "
                "constant are subtracted from that.",
            ),
        ],
    )
    many = [torch.randn(shape, generator=random) for shape in [(2, 3, 400), (3, 400), (3, 400)]]
    if not close(ask(answer, *many, shape=(2, 3)), _gaussian(*many).sum(-1)):
        raise Hint(f"Right for three numbers, and not for 400 of them. {UNDERFLOW}")


@exercise("0.2")
def check_log_mean_exp(answer: Answer, seed: int) -> None:
    """Check the logarithm of a mean of densities, down each column.

    Args:
        answer: takes log-densities `(S, N)`; returns `(N,)`.
        seed: which numbers it is tried on.
    """
    random = torch.Generator().manual_seed(seed)
    a = torch.randn(6, 3, generator=random)
    size = math.log(6)
    total = a.logsumexp(0)
    refuse(
        ask(answer, a, shape=(3,)),
        total - size,
        [
            (
                a.mean(0),
                "This is the mean of the logs. The log of the mean is asked for, and it is "
                "never lower.",
            ),
            (
                total - math.log(3),
                "You divided by N, the number of columns. The mean is over the samples.",
            ),
            (total, "This is the log of the sum. How many terms has the mean?"),
            (
                total / 6,
                "You divided the logarithm by S. The density is what is to be divided: what does "
                "that do to its logarithm?",
            ),
            (total + size, "Dividing by S makes the result smaller: mind the sign of log S."),
            (size - total, "The sign is turned: the larger the densities, the larger the result."),
            ((total - size).exp(), "This is the mean itself; its logarithm is asked for."),
            (
                a.max(0).values,
                "This is the largest term alone. Add the others to it, relative to the largest.",
            ),
            (
                total - size - a.max(0).values,
                "The maximum was subtracted and not added again at the end.",
            ),
            (
                total - math.log(18),
                "You divided by the number of all entries. A column has S of its own.",
            ),
            (total - 6, "You subtracted S. What stands there is its logarithm."),
            (
                a.amax(0) + (total - size - a.amax(0)).exp(),
                "The last logarithm is missing: a mean of exponentials is added to a logarithm.",
            ),
        ],
    )
    low, high = ask(answer, a - 1000, shape=(3,)), ask(answer, a + 1000, shape=(3,))
    if not low.isfinite().all():
        raise Hint(
            "Right for moderate numbers. With log-densities near −1000 every exponential "
            "underflows to zero, and the result is not finite. Subtract something first."
        )
    if not high.isfinite().all():
        raise Hint(
            "Right for small numbers. With log-densities near +1000, as continuous data have "
            "them, an exponential overflows. What is the largest number that may be raised?"
        )
    apart = torch.tensor([-1000.0, 0.0, 1000.0])
    if not close(ask(answer, a + apart, shape=(3,)), total - size + apart):
        raise Hint(
            "Each column alone is right. With columns of very different size it fails: one "
            "maximum for the whole tensor does not serve them all."
        )
    # The largest is neither the first nor the last.
    steep = a + torch.tensor([[0.0], [300.0], [1500.0], [600.0], [900.0], [0.0]])
    if not close(ask(answer, steep, shape=(3,)), steep.logsumexp(0) - size):
        raise Hint(STEEP)
    a[:, 1] = -math.inf
    some = ask(answer, a, shape=(3,))
    if some.isnan().any():
        raise Hint(
            "A column of −inf only, where every density is zero, gives NaN: its maximum is −inf "
            "too, and −inf minus −inf is not a number. Subtract 0 where the maximum is not finite, "
            "or leave all of it to torch.logsumexp."
        )
    if some[1] != -math.inf or not close(some[::2], (total - size)[::2]):
        raise Hint("The mean of zeros is zero: a column of −inf only must give −inf.")


@exercise("0.3")
def check_mixture_log_density(answer: Answer, seed: int) -> None:
    """Check the log-density of a mixture of diagonal Gaussians.

    Args:
        answer: takes z `(N, D)`, logits `(K,)`, means `(K, D)` and log-scales `(K, D)`; returns
            `(N,)`.
        seed: which numbers it is tried on.
    """
    random = torch.Generator().manual_seed(seed)
    z, logits, loc, log_scale = (
        torch.randn(shape, generator=random) for shape in [(5, 2), (4,), (4, 2), (4, 2)]
    )
    # Some below zero, as no probabilities are.
    logits = logits - logits.mean()
    weights = logits.log_softmax(0)
    each = _gaussian(z[:, None], loc, log_scale)
    whole = each.sum(-1)
    target = _mixture(z, weights, loc, log_scale)
    value = ask(answer, z, logits, loc, log_scale, shape=(5,))
    if value.isnan().any():
        raise Hint(
            "Your log-density is NaN. Logits and log-scales are logarithms already, and may be "
            "negative: was one taken for a weight or a standard deviation?"
        )
    refuse(
        value,
        target,
        [
            (
                (weights[:, None] + each).logsumexp(1).sum(-1),
                "This is a mixture for each dimension by itself, so a point may take one "
                "coordinate from one component and the next from another. Which of the two sums "
                "comes first?",
            ),
            (
                (weights[:, None] + each).sum(-1).logsumexp(-1),
                "The weight of a component is counted once for each dimension. It belongs to the "
                "component as a whole.",
            ),
            (
                _mixture(z, logits, loc, log_scale),
                "The logits are not log-weights yet: their exponentials do not sum to one.",
            ),
            (
                _mixture(z, logits.softmax(0), loc, log_scale),
                "A weight multiplies a density. What stands beside a log-density is the weight's "
                "logarithm.",
            ),
            (
                whole.logsumexp(-1),
                "The densities are summed without weights: your mixture has a mass of K.",
            ),
            (
                _mixture(z, torch.zeros(4) - math.log(4), loc, log_scale),
                "All components weigh the same here. Where do the logits come in?",
            ),
            (
                (weights.exp() * whole).sum(-1),
                "This is the weighted mean of the log-densities. A mixture is the weighted mean "
                "of the densities, and the logarithm comes last.",
            ),
            (
                (weights + whole).max(-1).values,
                "Only the largest component counts here. The others add to the density too.",
            ),
            (
                (weights + each.mean(-1)).logsumexp(-1),
                "This takes a mean over the event. A log-density is summed over it.",
            ),
            (
                _mixture(z, weights, loc, log_scale / 2),
                "You read log σ as a log-variance: the spread used is √σ.",
            ),
            (
                _mixture(z, weights, loc, 2 * log_scale),
                "The variance stands where the standard deviation belongs: the spread used is σ².",
            ),
            (
                target - math.log(4),
                "You divided by K as well. The weights sum to one already.",
            ),
            (-target, "The sign is turned: near a component's mean the density is higher."),
            (
                (weights + whole).sum(-1),
                "You added logarithms of the components. In a mixture their densities add up.",
            ),
            (
                (weights + whole).mean(-1),
                "You took a mean of the components' logarithms. Their densities are averaged.",
            ),
            (
                (weights + each.logsumexp(-1)).logsumexp(-1),
                "Inside of a component you added the densities of the coordinates. Those of "
                "independent numbers multiply.",
            ),
            (
                (weights * whole).logsumexp(-1),
                "You multiplied two logarithms. Where densities and weights multiply, they add.",
            ),
            (
                _gaussian(z, weights.exp() @ loc, weights.exp() @ log_scale).sum(-1),
                "You averaged means and widths, and that gives one Gaussian. A mixture averages "
                "densities.",
            ),
            (target.exp(), "This is the density; its logarithm is asked for."),
        ],
    )
    far, same = z + 200, torch.zeros(4, 2)
    # There each density underflows to zero, its logarithm does not.
    if not close(
        ask(answer, far, logits, loc, same, shape=(5,)), _mixture(far, weights, loc, same)
    ):
        raise Hint(
            "Right near the components. Far from all of them the densities underflow to zero: "
            "stay with logarithms throughout."
        )
