"""Checks of the exercises of chapter 5, flow posteriors."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Normal

from . import Hint, ask, ask_twice, close, exercise, refuse, takes

Map = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def _flow(u: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    """A stretch of the first dimension, and an affine coupling of the rest: z, log|det ∂z/∂u|."""
    u = takes(u, 3, "The flow takes u first, of shape (S, N, D).")
    context = takes(context, 3, "The flow takes the means as its context, of shape (N, D).")
    u, context = torch.broadcast_tensors(u, context)
    first, rest = u[..., :1], u[..., 1:]
    log_scale = (first + context.sum(-1, keepdim=True)).tanh()
    z = torch.cat([1.5 * first - 0.4, rest * log_scale.exp() + 0.5], dim=-1)
    return z, math.log(1.5) + rest.shape[-1] * log_scale.squeeze(-1)


@exercise("5.1")
def check_log_q(answer: Callable[[Tensor, Tensor, Tensor, Map], Tensor], seed: int) -> None:
    """Check the log-density of a flow posterior at its own samples (`eq-flow-posterior`).

    Args:
        answer: takes ε `(S, N, D)`, means and log-scales `(N, D)` and the flow, a function of u
            and a context that returns z and the log-determinant; returns `(S, N)`.
        seed: which numbers it is tried on.
    """
    random = torch.Generator().manual_seed(seed)
    eps = torch.randn(4, 5, 3, dtype=torch.float64, generator=random)
    loc = torch.randn(5, 3, dtype=torch.float64, generator=random)
    log_scale = 0.5 * torch.randn(5, 3, dtype=torch.float64, generator=random) - 0.7
    scale = log_scale.exp()
    u = loc + scale * eps
    z, ladj = _flow(u, loc)
    each = Normal(loc, scale).log_prob(u)
    log_u, log_eps = each.sum(-1), Normal(0.0, 1.0).log_prob(eps).sum(-1)
    at_z = Normal(loc, scale).log_prob(z).sum(-1)

    def with_scale(wrong: Tensor) -> Tensor:
        other = loc + wrong * eps
        log_u: Tensor = Normal(loc, wrong).log_prob(other).sum(-1)
        return log_u - _flow(other, loc)[1]

    # log σ taken for the width itself, in formulas that torch's Normal does not see.
    raw = loc + log_scale * eps
    target = log_u - ladj
    refuse(
        ask_twice(
            answer, eps, loc, log_scale, _flow, shape=(4, 5), hint="The noise is given."
        ).double(),
        target,
        [
            (
                log_u + ladj,
                "The log-determinant has the wrong sign. Where f stretches, is q denser?",
            ),
            (log_u, "This is the density of u. What does the flow do to it?"),
            (log_u - 2 * ladj, "The log-determinant is counted twice."),
            (
                log_u - _flow(u, u)[1],
                "You gave the flow the noisy u as its context. It is conditioned on the mean.",
            ),
            (
                log_u - _flow(u, log_scale)[1],
                "You gave the flow log σ as its context. It is conditioned on the mean.",
            ),
            (log_u - _flow(eps, loc)[1], "You sent ε through the flow. Its input is u."),
            (log_eps - _flow(eps, loc)[1], "You left μ and σ out: u is not ε."),
            (log_eps - ladj, "That is the density of ε, not of u: where is log σ?"),
            (
                log_eps + log_scale.sum(-1) - ladj,
                "log σ has the wrong sign: a wide u is less dense.",
            ),
            (
                Normal(loc, scale).log_prob(eps).sum(-1) - ladj,
                "You asked the Gaussian of u about ε. Ask it about u.",
            ),
            (
                Normal(0.0, 1.0).log_prob(u).sum(-1) - ladj,
                "You asked N(0, I) about u. With which mean and width was u drawn?",
            ),
            (
                log_u - log_scale.sum(-1) - ladj,
                "log σ is subtracted twice: the density of u has it already.",
            ),
            (
                log_u - _flow(u, z)[1],
                "You gave the flow its own output as its context. It is conditioned on the mean.",
            ),
            (at_z - ladj, "You took the Gaussian at z. It is the density of u."),
            (at_z, "You took the Gaussian at z, and its density knows nothing of the flow."),
            (log_u - _flow(z, loc)[1], "You took the log-determinant at z. It belongs to u."),
            (each.mean(-1) - ladj, "You averaged over the dimensions. Log-densities are summed."),
            (-target, "This is minus log q."),
            (
                log_u - _flow(loc.expand_as(u), u)[1],
                "The flow's two arguments are swapped: u comes first, and the mean is its context.",
            ),
            (with_scale((log_scale / 2).exp()), "log_scale is log σ, not the log of the variance."),
            (with_scale(scale**2), "You used the variance where σ is asked for."),
            (
                Normal(loc, scale**2).log_prob(u).sum(-1) - ladj,
                "The width in the density of u is the variance. Its root belongs there.",
            ),
            (
                Normal(loc, scale).log_prob(loc + scale**2 * eps).sum(-1)
                - _flow(loc + scale**2 * eps, loc)[1],
                "You drew u with the variance for its width. Its root belongs there.",
            ),
            (
                log_u - _flow(raw, loc)[1],
                "You drew u with log σ as its width. Which function undoes the logarithm?",
            ),
            (
                Normal(loc, scale).log_prob(loc + eps).sum(-1) - _flow(loc + eps, loc)[1],
                "Your u is μ + ε. How wide is the Gaussian that it comes from?",
            ),
            (
                with_scale(log_scale.exp().log1p()),
                "You made a width of log_scale by a softplus. It is a logarithm: what undoes it?",
            ),
            (target.exp(), "This is the density. Its logarithm is asked for."),
            (
                log_u - _flow(u, eps)[1],
                "You gave the flow ε as its context. It is conditioned on the mean.",
            ),
            (log_u - _flow(loc.expand_as(u), loc)[1], "You sent the mean through the flow, not u."),
            (
                (each - ladj[..., None]).sum(-1),
                "The log-determinant is subtracted once for each dimension. It is there once.",
            ),
            (
                log_u - ladj.abs().log(),
                "The flow gives the logarithm of the determinant already: take none of that.",
            ),
            (-ladj, "The density of u is missing."),
            (
                log_eps - scale.sum(-1) - ladj,
                "You subtracted σ. What stands there is its logarithm.",
            ),
            (
                Normal(0.0, 1.0).log_prob(z).sum(-1) - ladj,
                "You asked N(0, I) about z. The Gaussian is that of u.",
            ),
            (
                target + 1.5 * math.log(2 * math.pi),
                "The constant of the Gaussian is missing: one for each dimension.",
            ),
            (
                target + math.log(2 * math.pi),
                "The constant is there once for the whole event. Each of the D numbers brings its "
                "own.",
            ),
        ],
    )


@exercise("5.2")
def check_kl_to_posterior(answer: Callable[[Tensor, Tensor, float], Tensor], seed: int) -> None:
    """Check a divergence to the true posterior by a sum over a grid (`eq-grid-posterior`).

    Args:
        answer: takes log q and log p(x, z) at the points of a grid, `(G, N)` each, and the log
            of the area of a point; returns `(N,)`.
        seed: which numbers it is tried on.
    """
    # So wide that q sums to 1 on it: log p(x) − ELBO is a right answer, too.
    line = torch.linspace(-8, 8, 65, dtype=torch.float64)
    z1, z2 = torch.cartesian_prod(line, line).T[..., None]
    centre = torch.tensor([-1.0, 0.0, 0.5], dtype=torch.float64)
    centre += 0.2 * torch.randn(3, generator=torch.Generator().manual_seed(seed))
    # Bananas, as no decoder promises to be normalised.
    log_p = -0.5 * (z1 - centre) ** 2 - (z2 - 0.4 * z1**2 + 1) ** 2 - 3 + centre
    log_q = Normal(centre, 0.9).log_prob(z1) + Normal(-0.4, 0.8).log_prob(z2)
    log_area = 2 * math.log(0.25)
    area, q = math.exp(log_area), log_q.exp()
    evidence = log_p.logsumexp(0) + log_area
    posterior = log_p - evidence
    target = (q * (log_q - posterior)).sum(0) * area
    no_area = evidence - log_area
    refuse(
        ask(answer, log_q, log_p, log_area, shape=(3,)).double(),
        target,
        [
            (-target, "The sign is turned: a divergence is never negative."),
            (
                (q * (log_q - log_p)).sum(0) * area,
                "This is minus the ELBO. The true posterior is normalised: where is log p(x)?",
            ),
            (
                (q * (log_p - log_q)).sum(0) * area,
                "This is the ELBO. What is between it and log p(x)?",
            ),
            (
                (q * (log_q - log_p + no_area)).sum(0) * area,
                "log p(x) is a sum without its area. Each point stands for a small square.",
            ),
            (
                (q * (log_q - posterior)).sum(0),
                "The area is missing in the last sum: an integral weighs each point by it.",
            ),
            (
                (q * (log_q - log_p + no_area)).sum(0),
                "The area is missing in both sums.",
            ),
            (
                (q * (log_q - posterior)).sum(0) * log_area,
                "You multiplied by the logarithm of the area.",
            ),
            (
                (q * (log_q - log_p + no_area * area)).sum(0) * area,
                "You multiplied a logarithm by the area. The area multiplies the sum, so its "
                "logarithm is added.",
            ),
            (
                (posterior.exp() * (posterior - log_q)).sum(0) * area,
                "This is KL from the true posterior to q. Which of the two is the average over?",
            ),
            (
                (posterior.exp() * (log_q - posterior)).sum(0) * area,
                "The average is over the true posterior, and it is to be over q: by which density "
                "do you weigh each point?",
            ),
            (
                (log_p.exp() * (log_q - posterior)).sum(0) * area,
                "You weigh the points by p(x, z), which is no density of z and not the one of the "
                "average: that is q.",
            ),
            (
                (q * (log_q - log_p)).sum(0) * area - evidence,
                "log p(x) has the wrong sign: it is subtracted from log p(x, z), and that is "
                "subtracted, too.",
            ),
            (
                (log_q * (log_q - posterior)).sum(0) * area,
                "You weighted the points by log q. The weights of an average are densities.",
            ),
            (
                (log_q - posterior).sum(0) * area,
                "You summed the log-ratio over the plane. Each point counts by its density q.",
            ),
            (
                (q * (log_q - posterior)).mean(0),
                "You averaged over the points of the grid. An integral is a sum times the area.",
            ),
            (
                (q * (log_q - posterior)).mean(0) * area,
                "You averaged over the points, then took the area: the sum is asked for.",
            ),
            (
                (q * (log_q - log_p + log_p.logsumexp((0, 1)) + log_area)).sum(0) * area,
                "You took one log p(x) for all examples. Each has its own.",
            ),
            (
                (q * (log_q - log_p + no_area - log_area)).sum(0) * area,
                "The logarithm of the area is subtracted in log p(x). A sum times the area: what "
                "do logarithms make of a product?",
            ),
            (
                (q * (log_q - log_p + no_area + area)).sum(0) * area,
                "You added the area to the logarithm of a sum. Its logarithm belongs there.",
            ),
            (
                (q * (log_q - posterior)).sum(0) + log_area,
                "You added the log-area to the last sum, which is no logarithm.",
            ),
            (
                (q * (log_q - log_p + no_area - math.log(len(q)))).sum(0) * area,
                "log p(x) is a mean over the grid here. It is a sum, each point with its area.",
            ),
            (
                (q * (log_q - log_p + evidence - math.log(len(q)))).sum(0) * area,
                "log p(x) is divided by the number of points, and has the area besides.",
            ),
            (evidence, "This is log p(x). The divergence is what the ELBO lacks of it."),
            (target * area, "The area is counted twice in the last sum."),
            (
                (q * (log_q - posterior).abs()).sum(0) * area,
                "You took the log-ratios without their sign. At a single point one may be "
                "negative.",
            ),
            (
                (q * (log_q - log_p + evidence.exp())).sum(0) * area,
                "You subtracted p(x) itself. What stands there is its logarithm.",
            ),
            (
                (q * (log_q - log_p / evidence)).sum(0) * area,
                "You divided logarithms. Where densities are divided, they are subtracted.",
            ),
            (
                (log_q - posterior).mean(0),
                "You averaged the log-ratio over the grid. Each point counts by its density q.",
            ),
        ],
    )
    # The true posterior does not know how improbable x is.
    if not close(ask(answer, log_q, log_p - 1000, log_area, shape=(3,)).double(), target):
        raise Hint(
            "Right for moderate numbers. With log p(x, z) near −1000, as pictures have it, the "
            "exponentials underflow to zero. Chapter 0 shows the way around."
        )


@exercise("5.6")
def check_dreg(answer: Callable[[Tensor, Tensor, Tensor], Tensor], seed: int) -> None:
    """Check a doubly reparametrised gradient with respect to the scale of a Gaussian.

    Args:
        answer: takes the log-weights, their slopes and the noise, `(K, N)` each; returns `(N,)`.
        seed: which numbers it is tried on.
    """
    random = torch.Generator().manual_seed(seed)
    log_w, slope, eps = torch.randn(3, 5, 7, dtype=torch.float64, generator=random)
    # As log-densities are: their exponentials alone would be zero.
    log_w = 2 * log_w - 800

    share = log_w.softmax(0)
    path = slope * eps
    of_squares = share**2 / (share**2).sum(0)
    relative = (log_w - log_w.amax(0)).exp()
    value = ask(answer, log_w, slope, eps, shape=(7,)).double()
    if value.isnan().any() or not value.any():
        raise Hint(
            "The weights are zero in floating point: their logarithms lie near −800. The shares "
            "are not. Chapter 0 shows the way around."
        )
    refuse(
        value,
        (share**2 * path).sum(0),
        [
            ((share * path).sum(0), "That is the path alone. What is left of the score?"),
            (
                (share * (1 - share) * path).sum(0),
                "That part belongs to the score and is taken off.",
            ),
            ((share**2 * slope).sum(0), "That is the gradient with respect to the mean."),
            (path.mean(0), "All samples count alike there, as in the ELBO. Where are the weights?"),
            ((of_squares * path).sum(0), "Square the shares, and do not make them sum to 1 again."),
            ((share**2 * path).mean(0), "The shares are an average already: add the samples up."),
            (
                (log_w.softmax(1) ** 2 * path).sum(0),
                "The shares sum to 1 over the samples of one example, not over the examples.",
            ),
            (-(share**2 * path).sum(0), "The sign is turned: a gradient of the bound, not a loss."),
            ((share**2 * eps).sum(0), "Where is the slope of log w?"),
            (
                (share * path).sum(0) ** 2,
                "You squared the sum. Each share is squared, before the samples are added.",
            ),
            (
                ((log_w / log_w.sum(0)) ** 2 * path).sum(0),
                "You made shares of the log-weights. Shares are made of weights.",
            ),
            ((log_w**2 * path).sum(0), "You squared the log-weights. Their shares are squared."),
            (
                ((log_w - log_w.logsumexp(0)) * path).sum(0),
                "Those are the logarithms of the shares.",
            ),
            (
                (relative**2 * path).sum(0),
                "Your weights are relative to the largest. Shares sum to 1.",
            ),
            (
                (log_w.flatten().softmax(0).view_as(log_w) ** 2 * path).sum(0),
                "Your shares sum to 1 over all examples together. Each example has its own.",
            ),
            ((2 * share * path).sum(0), "You doubled the shares. They are squared."),
            (
                (log_w.log_softmax(0) ** 2 * path).sum(0),
                "You squared logarithms. The shares themselves are squared.",
            ),
            (
                ((share * path) ** 2).sum(0),
                "You squared slope and noise, too. The share alone is squared.",
            ),
        ],
    )
