"""Checks of the exercises of chapter 3, the hierarchical VampPrior."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from ..distributions import Chain
from . import Hint, Unnamed, ask, ask_twice, exercise, numbers, refuse, takes
from .hints import BITS, SHAPES

Conditional = Callable[[Tensor], Distribution]


def _gaussian(loc: Tensor, scale: float | Tensor) -> Distribution:
    return Independent(Normal(loc, scale, validate_args=False), 1, validate_args=False)


def _seeded(
    answer: Callable[..., Tensor], *arguments: object, shape: tuple[int, ...], seed: int = 0
) -> Tensor:
    """The answer with the same random numbers at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ask(answer, *arguments, shape=shape).double()


# --- 3.1 --------------------------------------------------------------------------------------


def _levels(first: int, second: int, seed: int) -> tuple[Tensor, Distribution, Conditional]:
    """Both levels z `(5, 4, first + second)`, p(z₂) and p(z₁ | z₂)."""
    centre, bias = numbers(first, seed=10 * seed + 1), numbers(second, seed=10 * seed + 3)
    weight = numbers(first, second, seed=10 * seed + 2)

    def conditional(z2: Tensor) -> Distribution:
        z2 = takes(z2, first, f"p(z₁ | z₂) takes z₂ alone, of shape (…, {first}).")
        return _gaussian(z2 @ weight + bias, 0.7)

    z = numbers(5, 4, first + second, seed=10 * seed + 4)
    return z, _gaussian(centre, 1.5), conditional


def _parts(z: Tensor, top: Distribution, conditional: Conditional) -> tuple[Tensor, Tensor]:
    size = top.event_shape[0]
    z2, z1 = z[..., :size], z[..., size:]
    return top.log_prob(z2), conditional(z2).log_prob(z1)


@exercise("3.1")
def check_chain_log_prob(
    answer: Callable[[Tensor, Distribution, Conditional], Tensor], seed: int
) -> None:
    """Check the log-density of a two-level prior.

    Args:
        answer: takes z = [z₂, z₁] `(S, N, D₂ + D₁)`, the distribution p(z₂), and a function from
            z₂ to p(z₁ | z₂); returns `(S, N)`.
        seed: which numbers it is tried on.
    """
    z, top, conditional = _levels(2, 2, seed)
    above, below = _parts(z, top, conditional)
    front, back = z[..., :2], z[..., 2:]
    hint = "Both levels are in z already, and the lower one belongs to that z₂ and to no fresh one."
    try:
        value = ask_twice(answer, z, top, conditional, shape=(5, 4), hint=hint).double()
    except Hint as error:
        if SHAPES not in str(error):
            raise
        raise Hint(
            "Shapes do not fit. p(z₂) judges z₂ alone, and p(z₁ | z₂) judges z₁ alone: which "
            "numbers of z are which?"
        ) from error
    refuse(
        value,
        above + below,
        [
            (above, "This is the top level alone. What does z₁ cost, given z₂?"),
            (below, "This is the lower level alone. How probable is z₂ itself?"),
            (
                top.log_prob(back) + conditional(back).log_prob(front),
                "You took z₁ for z₂: the top level comes first in the vector.",
            ),
            (
                above + conditional(back).log_prob(back),
                "The conditional was asked about z₁ given z₁. It is to be given the top level.",
            ),
            (
                above + conditional(top.mean).log_prob(back),
                "The lower level was centred by the mean of p(z₂). Its centre moves with z₂.",
            ),
            (
                above + top.log_prob(back),
                "Both levels have the density of the top one. The lower level has its own.",
            ),
            (-above - below, "The sign is turned: a log-density is asked for, not a cost."),
            (
                above - below,
                "One level is subtracted from the other. Densities multiply along a chain.",
            ),
            (
                above * below,
                "You multiplied two logarithms. It is the densities that multiply.",
            ),
            ((above + below) / 2, "This is a mean of the two levels. What does a chain do?"),
            (
                torch.logaddexp(above, below),
                "You added the densities, as for a mixture. In a chain they multiply.",
            ),
            ((above + below).exp(), "This is the density; its logarithm is asked for."),
            (
                above + conditional(back).log_prob(front),
                "The conditional was asked about z₂ given z₁. It is the other way round.",
            ),
        ],
    )
    z, top, conditional = _levels(1, 3, seed)
    target = sum(_parts(z, top, conditional), torch.zeros(()))
    uneven = "Right where both levels are of one size. Here the top has 1 number and the lower 3"
    try:
        refuse(ask(answer, z, top, conditional, shape=(5, 4)).double(), target, [])
    except Hint as error:
        raise Hint(f"{uneven}: where does the top level end?") from error


# --- 3.2 --------------------------------------------------------------------------------------

SAMPLES = 50_000


def _near(value: Tensor, target: Tensor, tolerance: float = 0.1) -> bool:
    return bool(((value - target).abs() <= tolerance * target.abs().clamp(min=1)).all())


def _refuse_estimate(
    value: Tensor,
    target: Tensor,
    mistakes: Sequence[tuple[Tensor, str]],
    hint: str,
    tolerance: float = 0.1,
) -> None:
    """`refuse` for an estimate from samples, which hits nothing exactly."""
    if _near(value, target, tolerance):
        return
    for wrong, known in mistakes:
        if _near(value, wrong, tolerance):
            raise Hint(known)
    if _near(value * math.log(2), target, tolerance):
        raise Hint(BITS)
    raise Unnamed(hint)


def _chains(seed: int) -> tuple[Chain, Chain]:
    """q(z | x) for three pictures, and p(z): two numbers at the top, one below."""
    loc = torch.tensor([[0.5, -1.0], [1.0, 0.3], [-0.8, 0.6]], dtype=torch.float64)
    loc += 0.2 * numbers(3, 2, seed=seed)
    shift = torch.tensor([[0.6], [-0.4], [1.0]], dtype=torch.float64)
    sum_q = torch.tensor([[0.3], [0.8]], dtype=torch.float64)
    sum_p = torch.tensor([[1.2], [-0.7]], dtype=torch.float64)
    q = Chain(_gaussian(loc, 0.5), lambda z2: _gaussian(z2 @ sum_q + shift, 0.6), 3)
    zero = torch.zeros(2, dtype=torch.float64)
    p = Chain(_gaussian(zero, torch.ones_like(zero)), lambda z2: _gaussian(z2 @ sum_p, 1.0), 3)
    return q, p


def _log_ratios(q: Chain, p: Chain, z: Tensor) -> Tensor:
    return torch.stack(q.log_prob_parts(z)) - torch.stack(p.log_prob_parts(z))


def _kl_mistakes(q: Chain, p: Chain) -> tuple[Tensor, list[tuple[Tensor, str]]]:
    z = q.sample((SAMPLES,))
    z2, z1 = z[..., :2], z[..., 2:]
    ratios = _log_ratios(q, p, z)
    target = ratios.mean(1)
    from_p = p.sample((SAMPLES, 3))
    below_from_p = torch.cat([z2, p.then(z2).sample()], dim=-1)
    fresh = from_p[..., :2]
    against_fresh = q.then(z2).log_prob(z1) - p.then(fresh).log_prob(z1)
    both_fresh = q.then(q.first.sample((SAMPLES,))).log_prob(z1) - p.then(z2).log_prob(z1)
    return target, [
        (-target, "The sign is turned: a KL divergence is never negative, and yours are."),
        (target.flip(0), "The two levels are swapped: the top one comes first."),
        (
            torch.stack([target[0], target.sum(0)]),
            "Your second row is the sum of both levels. What does the lower one cost by itself?",
        ),
        (
            ratios.sum(1),
            "You summed over the samples. More of them should estimate the same number better.",
        ),
        (target / 2, "You divided by the number of levels. Each level has its own account."),
        (
            ratios.clamp(min=0).mean(1),
            "You cut off negative log-ratios. Only their average is never negative.",
        ),
        (
            ratios.abs().mean(1),
            "You took the log-ratios without their sign. At a single sample one may be negative.",
        ),
        (
            _log_ratios(q, p, from_p).mean(1),
            "Your samples come from the prior. The divergence averages over q.",
        ),
        (
            -_log_ratios(q, p, from_p).mean(1),
            "This is the divergence from p to q. The other way round, please.",
        ),
        (
            _log_ratios(q, p, below_from_p).mean(1),
            "The top level is right. For the lower one you drew z₁ from the prior: it has to come "
            "from q.",
        ),
        (
            torch.stack([target[0], against_fresh.mean(0)]),
            "The top level is right. The lower one is compared with the prior at a fresh z₂. Both "
            "q and p of z₁ belong to the one z₂ that was drawn from q.",
        ),
        (
            torch.stack([target[0], both_fresh.mean(0)]),
            "The top level is right. In the lower one, the z₁ that you drew is judged by q at "
            "another z₂ than its own.",
        ),
        (
            -torch.stack(p.log_prob_parts(z)).mean(1),
            "The posterior's own density is missing from both levels.",
        ),
        (
            torch.stack(q.log_prob_parts(z)).mean(1),
            "The prior is missing from both levels.",
        ),
        (
            torch.stack([target[0], target[0]]),
            "Your second row is the top level again. Which density has z₁?",
        ),
        (
            torch.stack([target[0], -target[1]]),
            "In the lower level the sign is turned: q comes first there, too.",
        ),
        (
            torch.stack([-target[0], target[1]]),
            "In the top level the sign is turned: q comes first there, too.",
        ),
        (
            (torch.stack(q.log_prob_parts(z)) - torch.stack(p.log_prob_parts(from_p))).mean(1),
            "You asked p about samples of its own. Both densities are asked about one z, from q.",
        ),
        (
            (torch.stack(q.log_prob_parts(z)).exp() * ratios).mean(1),
            "You weighted the log-ratios by q. The samples were drawn from q, so each counts "
            "alike.",
        ),
    ]


@exercise("3.2")
def check_kl_by_level(answer: Callable[[Chain, Chain, int], Tensor], seed: int) -> None:
    """Check the KL term of each level, estimated from samples.

    Args:
        answer: takes q(z | x) and p(z), both a `Chain`, and a number of samples; returns
            `(2, N)`, the top level first.
        seed: which numbers it is tried on.
    """
    q, p = _chains(seed)

    def from_prior(shape: Any = ()) -> Tensor:
        # Those fit no posterior, and torch would only say so.
        if shape != (SAMPLES, 3):
            raise Hint("Your samples come from the prior. The divergence averages over q.")
        return p.sample(shape)

    given = _chains(seed)[1]
    vars(given)["sample"] = from_prior
    value = _seeded(answer, q, given, SAMPLES, shape=(2, 3))
    if value.isnan().any():
        raise Hint("Your result is NaN. Did you take the logarithm of a logarithm?")
    again = _seeded(answer, q, given, SAMPLES, shape=(2, 3), seed=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        target, mistakes = _kl_mistakes(q, p)
    first, last = target[0, 0].item(), target[1, 0].item()
    hint = (
        f"For the first picture the two should be about {first:.1f} and {last:.1f} nats, yours "
        f"are {value[0, 0].item():.1f} and {value[1, 0].item():.1f}. Which z stands where?"
    )
    if not _near(value, again):
        hint = (
            f"Your estimate changes from call to call by more than {SAMPLES:,} samples allow. "
            "Do all of them enter it?"
        )
    # Narrow enough to tell a mean of log-ratios from one without the negative ones.
    _refuse_estimate(value, target, mistakes, hint, tolerance=0.06)


# --- 3.3 --------------------------------------------------------------------------------------


def _moments(mean: Sequence[float], variance: Sequence[float], covariance: float) -> Tensor:
    return torch.tensor([*mean, *variance, covariance], dtype=torch.float64)


@exercise("3.3")
def check_ancestral(
    answer: Callable[[Distribution, Conditional, Conditional, int], Tensor], seed: int
) -> None:
    """Check samples of a two-level model by their mean and covariance.

    Args:
        answer: takes the distribution p(z₂), a function from z₂ to p(z₁ | z₂), a function from
            [z₂, z₁] to p(x | z), and n; returns `(n, X)`.
        seed: which numbers it is tried on.
    """
    one, m = torch.ones(1, dtype=torch.float64), 1 + 0.1 * (seed % 10)
    # The data are both latents with noise, so their moments tell what was drawn from what.
    top = _gaussian(m * one, one)

    def conditional(z2: Tensor) -> Distribution:
        z2 = takes(z2, 1, "p(z₁ | z₂) takes z₂ alone, of shape (n, 1).")
        return _gaussian(2 * z2, one)

    def likelihood(z: Tensor) -> Distribution:
        z = takes(z, 2, "The likelihood takes both levels as one vector, of shape (n, 2).")
        return _gaussian(z, 0.7)

    # First a few: whoever draws n for each of n would fill the memory.
    _seeded(answer, top, conditional, likelihood, 7, shape=(7, 2))
    x = _seeded(answer, top, conditional, likelihood, SAMPLES, shape=(SAMPLES, 2))
    covariance = x.T.cov()
    value = torch.cat([x.mean(0), covariance.diagonal(), covariance[0, 1][None]])
    if not value.isfinite().all():
        raise Hint("Some of your samples are not finite.")
    if _near(value[2:], _moments([], [0.49, 1.49], 0)):
        raise Hint("Every sample has the same z₂. Draw one for each.")
    if _near(value[2:], _moments([], [0.49, 0.49], 0)):
        raise Hint("All samples have the same latents, and only the noise differs. Draw n of them.")
    _refuse_estimate(
        value,
        _moments([m, 2 * m], [1.49, 5.49], 2),
        [
            (
                _moments([m, 2 * m], [1, 5], 2),
                "These are means of the likelihood. The picture has to be drawn, too.",
            ),
            (
                _moments([m, 2 * m], [1.49, 4.49], 2),
                "The lower level is at its conditional mean. It has to be drawn as well.",
            ),
            (
                _moments([m, 2 * m], [1.49, 5.49], 0),
                "z₁ and z₂ are independent in your samples. The decoder must get the same z₂ that "
                "z₁ was drawn for.",
            ),
            (
                _moments([m, 2 * m], [1.49, 1.49], 0),
                "Your z₁ was drawn at the mean of p(z₂). It depends on the z₂ of its own sample.",
            ),
            (
                _moments([m, 0], [1.49, 1.49], 0),
                "Your z₁ comes from N(0, I). Its distribution depends on z₂.",
            ),
            (
                _moments([m, m], [1.49, 1.49], 0),
                "Both levels come from the top prior. The lower one has a distribution of its own.",
            ),
            (
                _moments([2 * m, m], [5.49, 1.49], 2),
                "The latents are put together the wrong way round: the top level comes first.",
            ),
            (
                _moments([0, 0], [1.49, 5.49], 2),
                "Your z₂ comes from N(0, I). The model has a top prior of its own.",
            ),
            (
                _moments([m, 2 * m], [2, 6], 2),
                "z₂ and z₁ are right. The noise of the pixels is not: the likelihood has its own "
                "scale.",
            ),
            (
                _moments([m, 2 * m], [1.49, 5.49], 2.49),
                "z₂ and z₁ are right. The pixels of a picture share one noise; each has its own.",
            ),
            (
                _moments([m, m], [1.49, 1.49], 1),
                "The same numbers stand in both levels: where is z₁ drawn?",
            ),
        ],
        "The moments of your samples are not those of the model. Go down the chain: z₂, then z₁, "
        "then the picture.",
    )
