"""Checks of the exercises of chapter 7, towards diffusion."""

from collections.abc import Callable

import torch
from torch import Tensor

from . import Hint, ask, ask_twice, close, exercise, numbers, refuse

# --- 7.1 --------------------------------------------------------------------------------------


def _guess(z: Tensor, points: Tensor, shrink: Tensor, variance: Tensor) -> Tensor:
    """Σₙ wₙ xₙ with wₙ ∝ exp(−‖z − shrink xₙ‖² / (2 variance))."""
    distance = torch.cdist(z, shrink * points) ** 2
    return (-0.5 * distance / variance).softmax(dim=-1) @ points


@exercise("7.1")
def check_denoise_points(answer: Callable[[Tensor, Tensor, Tensor], Tensor], seed: int) -> None:
    """Check the best denoiser for data that are N points.

    Args:
        answer: takes z `(M, X)`, the points `(N, X)` and the log SNR λ, a number; returns E[x | z]
            `(M, X)`.
        seed: which numbers it is tried on.
    """
    z, points = numbers(6, 2, seed=10 * seed + 1), numbers(5, 2, seed=10 * seed + 2)
    lam = torch.tensor(0.6, dtype=torch.float64)
    value = ask_twice(answer, z, points, lam, shape=(6, 2), hint="E[x | z] is a mean.").double()
    a2, s2 = lam.sigmoid(), (-lam).sigmoid()
    a, one = a2.sqrt(), torch.ones_like(a2)
    away = torch.cdist(z, a * points)
    logits = -0.5 * away**2 / s2
    logits_of_each = -0.5 * (z[:, None] - a * points) ** 2 / s2
    right = _guess(z, points, a, s2)
    refuse(
        value,
        right,
        [
            (
                points.mean(0).expand_as(z),
                "This is the mean of all points. Near z some are more probable than others.",
            ),
            (
                points[away.argmin(-1)],
                "This is the nearest point. The best guess is a mean of all, with weights.",
            ),
            (
                _guess(z, points, one, s2),
                "You compare z with the points themselves. What has level t made of a point x?",
            ),
            (
                _guess(z / a, points, one, s2),
                "You divided z by α. That stretches its noise: by how much?",
            ),
            (
                (logits_of_each.softmax(dim=1) * points).sum(1),
                "Each coordinate has weights of its own. A point is one hypothesis, with one "
                "weight.",
            ),
            (
                (logits / 2).softmax(dim=-1) @ points,
                "You averaged the squares over the coordinates, or halved them twice. A "
                "log-density sums them.",
            ),
            (
                logits @ points,
                "Your weights are log-densities still. The posterior's weights are positive.",
            ),
            (_guess(z, points, a2, s2), "The mean of z given x is αx, and α² is the sigmoid of λ."),
            (
                _guess(z, points, a, s2.sqrt()),
                "You divide by the standard deviation σ. The Gaussian has the variance there.",
            ),
            (
                _guess(z, points, a, s2 / 2),
                "The exponent is twice too large: where is the ½ of the Gaussian?",
            ),
            (
                _guess(z, points, s2.sqrt(), a2),
                "α and σ have changed places. α² is the share of the signal, and grows with λ.",
            ),
            (
                _guess(z, points, s2.sqrt(), s2),
                "You shrink the points by σ. The signal's factor is α.",
            ),
            (
                _guess(z, points, a, s2**2),
                "The variance is squared once more. A Normal of torch's takes the width σ.",
            ),
            (
                _guess(z, points, a2, s2**2),
                "You took α² and σ² for α and σ: neither root is there.",
            ),
            (
                _guess(z, points, s2, a2),
                "α² and σ² are crossed, and the root is missing that makes a factor of one of "
                "them.",
            ),
            (
                _guess(z, points, s2, a2**2),
                "α² and σ² are crossed, and neither root is there.",
            ),
            (
                _guess(z, points, a2, s2.sqrt()),
                "The root is at the wrong one: α goes with the point, σ² into the exponent.",
            ),
            (
                _guess(z, points, s2.sqrt(), a),
                "α and σ are crossed, and the exponent has no variance.",
            ),
            (
                _guess(z, points, a, (-lam).exp()),
                "e to the −λ is σ² over α². The variance of z is σ² itself.",
            ),
            (
                _guess(z, points, a, 1 - a),
                "1 − α is no variance: the squares of α and σ add up to 1.",
            ),
            (
                _guess(z, points, lam.exp().sqrt(), (-lam).exp()),
                "e to the λ is the ratio of α² and σ². Take each of them from the sigmoid.",
            ),
            (right / a, "You divided the guess by α. It is a mean of points as they are."),
            (_guess(z, points, a, one), "The noise of the level does not enter your weights."),
            (_guess(z, points, a, a2), "You have the signal's variance where the noise's belongs."),
            (
                (-0.5 * away / s2).softmax(dim=-1) @ points,
                "The exponent has the distance in it. It should be the squared distance.",
            ),
            (
                (-logits).softmax(dim=-1) @ points,
                "The far points have the large weights. Look at the sign of the exponent.",
            ),
            (a * right, "This is the mean of αx. The guess is of x itself."),
            (
                logits.exp() @ points,
                "Your weights do not add up to 1. A posterior has to be normalised.",
            ),
            (
                logits.softmax(dim=0) @ points,
                "Your weights add up to 1 over the z. They should do so over the points.",
            ),
            (
                logits.exp() / logits.exp().sum() @ points,
                "Your weights add up to 1 over everything. Each z has weights of its own.",
            ),
            (
                right / 5,
                "You averaged over the points after weighting them. Weighted, they are summed.",
            ),
            (
                logits.log_softmax(dim=-1) @ points,
                "Your weights are logarithms still: a softmax alone is asked for.",
            ),
            (
                (z - a * right) / s2.sqrt(),
                "This is the guess of the noise. The one of x is asked for.",
            ),
        ],
    )
    lam = lam.new_tensor(10.0)
    a, s2 = lam.sigmoid().sqrt(), (-lam).sigmoid()
    if not close(ask(answer, z, points, lam, shape=(6, 2)).double(), _guess(z, points, a, s2)):
        raise Hint(
            "Right at λ = 0.6. At λ = 10 the exponentials of all points underflow to zero. "
            "Chapter 0 shows the way around."
        )


# --- 7.2 --------------------------------------------------------------------------------------


@exercise("7.2")
def check_denoising_terms(answer: Callable[[Tensor, Tensor, Tensor], Tensor], seed: int) -> None:
    """Check the KL term of each step, from guesses of the noise.

    Args:
        answer: takes the noise ε and its guess `(T, N, X)`, levels 1 to T, and the log SNR λ of
            the levels `(T,)`; returns `(T − 1, N)`, the terms of t = 2 to T.
        seed: which numbers it is tried on.
    """
    noise, guess = numbers(5, 3, 2, seed=10 * seed + 1), numbers(5, 3, 2, seed=10 * seed + 2)
    lam = torch.tensor([3.0, 1.2, 0.8, -0.9, -2.0], dtype=torch.float64)
    value = ask(answer, noise, guess, lam, shape=(4, 3)).double()
    squares = ((noise - guess) ** 2).sum(-1)
    snr = lam.exp()
    ratio = torch.expm1(lam[:-1] - lam[1:])[:, None]
    gained = (snr[:-1] - snr[1:])[:, None]
    right = 0.5 * ratio * squares[1:]
    refuse(
        value,
        right,
        [
            (2 * right, "Twice too large: where is the ½?"),
            (right / 2, "This is a mean over the two numbers of x. Nats are summed over them."),
            (-right, "The sign is turned: a divergence is never negative."),
            (
                0.5 * ratio * squares[:-1],
                "The step from t to t − 1 starts at t: the guess is made from the noisier level.",
            ),
            (
                0.5 * gained * squares[1:],
                "These are the weights of (7.8), which go with errors of x̂. You have errors of "
                "the noise.",
            ),
            (
                0.5 * torch.expm1(lam[1:] - lam[:-1])[:, None] * squares[1:],
                "Your terms are negative: the difference of the two λ is the wrong way round.",
            ),
            (
                0.5 * (lam[:-1] / lam[1:] - 1)[:, None] * squares[1:],
                "You divided the λ. They are logarithms of the SNRs.",
            ),
            (
                4 * right,
                "Your terms are T − 1 times too large. That factor is for one level drawn at "
                "random, and here all are given.",
            ),
            (
                0.5 * (-torch.expm1(lam[1:] - lam[:-1]))[:, None] * squares[1:],
                "You have 1 − SNR(t) / SNR(t − 1). The ratio stands the other way up.",
            ),
            (
                0.5 * (lam[:-1] - lam[1:]).exp()[:, None] * squares[1:],
                "The 1 is missing that is subtracted from the ratio of the two SNRs.",
            ),
            (
                0.5 * (lam[:-1] - lam[1:])[:, None] * squares[1:],
                "This is right for infinitely small steps. Yours are finite.",
            ),
            (
                0.5 * squares[1:],
                "The weights are missing. This is the simple loss, and no term of a bound.",
            ),
            (
                0.5 * ratio * squares[1:].sqrt(),
                "The error goes in squared.",
            ),
            (
                0.5 * lam.diff()[:, None] * squares[1:],
                "Your terms are negative, and right in the limit alone: compare SNR(t − 1) with "
                "SNR(t).",
            ),
            (
                0.5 * snr.diff()[:, None] * squares[1:],
                "Your terms are negative, and have the weights for errors of x̂. You have errors "
                "of the noise.",
            ),
            (
                5 * right,
                "Your terms are T times too large. That factor is for one level drawn at random, "
                "and here all are given.",
            ),
            (
                right / 4,
                "You averaged over the steps. Each row is to be one step's term.",
            ),
            (
                0.5 * ratio * (noise - guess).abs().sum(-1)[1:],
                "You summed the errors without their signs. Their squares are summed.",
            ),
            (
                0.5 * ratio * (noise**2 - guess**2).sum(-1)[1:],
                "You subtract squares. Subtract first, then square.",
            ),
            (
                0.5 * (lam[:-1].sigmoid() / lam[1:].sigmoid() - 1)[:, None] * squares[1:],
                "You divided the α². The ratio is of two SNRs, α² / σ².",
            ),
            (
                0.5 * (ratio + 2) * squares[1:],
                "The 1 is added. It is subtracted from the ratio of the two SNRs.",
            ),
            (
                right.cumsum(0),
                "Each row is to be one step's term. Yours have the rows above added to them.",
            ),
            (
                0.5 * ratio * ((noise - guess).sum(-1) ** 2)[1:],
                "You sum over the numbers of x first and square then.",
            ),
            (
                (0.5 * (ratio + 1) - 1) * squares[1:],
                "You took the half first and subtracted 1 then. The half is of the difference.",
            ),
            (
                0.5 * ((-lam[1:]).sigmoid() / (-lam[:-1]).sigmoid() - 1)[:, None] * squares[1:],
                "You divided the σ². The ratio is of two SNRs, which have α² above that.",
            ),
            (
                0.5 * (lam[:-1].sigmoid() - lam[1:].sigmoid())[:, None] * squares[1:],
                "You subtracted the α². The ratio is of two SNRs.",
            ),
            (
                0.5 * ratio * ((noise[:-1] - guess[1:]) ** 2).sum(-1),
                "You compare the noise of one level with the guess of another.",
            ),
        ],
    )
