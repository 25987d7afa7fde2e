"""Checks of the exercises of chapter 2, the VampPrior."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from . import Hint, Unnamed, ask, close, exercise, refuse
from .hints import LOG_WEIGHTS


@exercise("2.1")
def check_mutual_information(answer: Callable[[Tensor], Tensor], seed: int) -> None:
    """Check the mutual information of code and index.

    Args:
        answer: takes log q(zₙ | xₘ) in row n and column m, `(N, N)`; returns `()`.
        seed: which numbers it is tried on.
    """
    random = torch.Generator().manual_seed(seed)
    log_q = torch.randn(6, 6, dtype=torch.float64, generator=random) - 2 + 3 * torch.eye(6)
    log_q[0, 0] -= 6  # the likeliest picture is not always the one that a code came from
    own, mixture = log_q.diagonal(), log_q.logsumexp(1) - math.log(6)
    others = log_q.masked_fill(torch.eye(6, dtype=torch.bool), -math.inf).logsumexp(1)
    target = (own - mixture).mean()
    refuse(
        ask(answer, log_q, shape=()).double(),
        target,
        [
            (-target, "The sign is turned: mutual information is never negative."),
            (
                torch.tensor(math.log(6), dtype=torch.float64),
                "That is log N, the upper bound of (2.2). It knows nothing of these codes.",
            ),
            (
                (own - log_q.logsumexp(1)).mean(),
                "You summed over the pictures. The aggregated posterior is a mean: where is log N?",
            ),
            (
                (own - log_q.logsumexp(0) + math.log(6)).mean(),
                "You mixed along the wrong axis. One code, all pictures: which index runs?",
            ),
            (
                (own - log_q.mean(1)).mean(),
                "You took the mean of the logarithms. The mixture is a mean of densities.",
            ),
            (
                (own - others + math.log(5)).mean(),
                "You left the picture's own posterior out of the mixture. It belongs to q(z).",
            ),
            ((own - mixture).sum(), "You summed over the codes. A mean is asked for."),
            (
                (log_q.softmax(1) * (log_q - mixture[:, None])).sum(1).mean(),
                "You averaged over all pictures that a code might come from. That estimates the "
                "same number; (2.1) takes the one that it did come from.",
            ),
            (
                target - 2 * math.log(6),
                "log N has the wrong sign: a mean is smaller than the sum, so its logarithm is, "
                "too.",
            ),
            (
                (own - log_q.exp().mean(1)).mean(),
                "You subtracted the density of the mixture. Its logarithm belongs there.",
            ),
            (
                (own.exp() * (own - mixture)).sum(),
                "You weighted the codes by their density and summed. They were drawn from it, so "
                "each counts alike.",
            ),
            (
                (own.exp() * (own - mixture)).mean(),
                "You weighted the codes by their density. They were drawn from it, so it has had "
                "its say.",
            ),
            (
                (log_q - mixture[:, None]).mean(),
                "You averaged over all pairs. Code n was drawn from the posterior of picture n.",
            ),
            (
                target - math.log(6) + 6,
                "You added N. What stands there is its logarithm.",
            ),
            (
                own.mean() - log_q.logsumexp((0, 1)) + math.log(36),
                "You took one number for the mixture. Each code has a density of its own under it.",
            ),
            (
                (own - mixture).exp().mean(),
                "You averaged ratios of densities. Their logarithms are averaged.",
            ),
            (
                (log_q.amax(1) - mixture).mean(),
                "You took the largest in each row. The picture that a code was drawn from is "
                "known.",
            ),
        ],
    )
    # A density a thousand nats lower everywhere leaves the information as it is.
    if not close(ask(answer, log_q - 1000, shape=()).double(), target):
        raise Hint(
            "Right for moderate numbers. With log-densities near −1000, as pictures have them, the "
            "exponentials underflow to zero. Chapter 0 shows the way around."
        )


@exercise("2.2")
def check_sample(answer: Callable[[int, Tensor, Tensor, Tensor], Tensor], seed: int) -> None:
    """Check samples of a mixture of Gaussians.

    Args:
        answer: takes n, log-weights `(K,)`, means and scales `(K, D)`; returns `(n, D)`.
        seed: which numbers it is tried on.
    """
    random = torch.Generator().manual_seed(seed)
    n, order = 4000, torch.randperm(3, generator=random) if seed else torch.arange(3)
    weights = torch.tensor([0.5, 0.3, 0.2])[order]
    loc = torch.tensor([[0.0, 10.0], [20.0, 30.0], [90.0, 100.0]])
    loc += torch.rand(2, generator=random)
    scale = torch.tensor([[0.5, 0.5], [0.5, 2.0], [0.5, 0.5]])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Unnormalised, as learned log-weights are.
        try:
            z = ask(answer, n, weights.log() + 0.5, loc, scale, shape=(n, 2)).float()
        except Unnamed as error:
            if "yours has (3, 2)" not in str(error):
                raise
            raise Hint(
                "You took the first n components, and there are 3. Draw a component for each "
                "sample, by its weight."
            ) from error
    if not z.isfinite().all():
        raise Hint("Some samples are NaN or infinite.")
    if (z.mean(0).abs() < 4).all() and (z.std(0) > 5).all():
        raise Hint("Means and scales are swapped: look at the order of the arguments.")
    for centre in (weights @ loc, loc.mean(0)):
        if (z - centre).abs().quantile(0.9) < 3:
            raise Hint(
                "You averaged over the components. A sample comes from one of them alone, chosen "
                "by its weight."
            )
    # Components lie so far apart that each number tells which one it came from.
    nearest = (z[:, None] - loc).abs().argmin(dim=1)
    if z.abs().max() < 8:
        raise Hint("Your samples lie around 0: they come from N(0, I), which is not the prior.")
    if (nearest[:, 0] != nearest[:, 1]).float().mean() > 0.05:
        raise Hint("You drew a component for each dimension. One component draws the whole vector.")
    inside = z - loc[nearest[:, 0]]
    if inside.abs().median() > 3:
        raise Hint("Some samples lie between the components: each comes from one of them alone.")
    share = nearest[:, 0].bincount(minlength=3) / n
    if (share > 0.99).any():
        raise Hint("All samples come from one component. Draw one anew for each sample.")
    if (nearest[:-3, 0] == nearest[3:, 0]).all() or (nearest[1:, 0] >= nearest[:-1, 0]).all():
        raise Hint("You go through the components in order. Draw each one by its weight.")
    if (share - 1 / 3).abs().max() < 0.04:
        raise Hint("Your components come equally often. They have weights.")
    twice = (weights.log() + 0.5).exp().softmax(0)
    if (share - twice).abs().max() < 0.03:
        raise Hint(
            "You took the exponential of the log-weights, and then a softmax of that: one of the "
            "two is too many."
        )
    as_they_are = weights.log() + 0.5
    if (share - as_they_are / as_they_are.sum()).abs().max() < 0.03:
        raise Hint(LOG_WEIGHTS)
    if (share - weights).abs().max() > 0.04:
        wanted, found = ([round(value, 2) for value in each.tolist()] for each in (weights, share))
        raise Hint(f"The weights are {wanted}, and your components come with frequencies {found}.")
    spread = torch.stack([inside[nearest[:, 0] == k].std(0) for k in range(3)])
    if (inside.abs() < 1e-4).all():
        raise Hint("You return the means of the components. Draw from them.")
    if (spread < 0.01).all():
        raise Hint("All samples of a component are the same. Draw the noise anew for each.")
    if not torch.allclose(spread, scale, rtol=0.15):
        raise Hint("The spread inside a component is wrong: scale is its standard deviation.")
    first = inside[nearest[:, 0] == 0]
    if first.T.corrcoef()[0, 1].abs() > 0.2:
        raise Hint("The dimensions of a sample move together: each needs noise of its own.")
